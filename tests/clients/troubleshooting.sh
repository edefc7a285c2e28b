#!/usr/bin/env bash
# deploy/troubleshooting.md: each symptom is produced with a real client, whose own text must stand in a heading of the page,
# and the cure is tried. The last check names the texts in headings that nothing here has produced.
source "$(dirname "$0")/lib.sh"

PAGE=$ROOT/deploy/troubleshooting.md
SHOWN=$WORK/shown
LOGIN=$USER_NAME:$PASSWORD
FRONTS=$ROOT/tests/support/front.py

# These take minutes, or a disk, or another machine.
NOT_SHOWN='connection reset by peer
short read
name unknown'

# shows TEXT COMMAND...: the command fails and says TEXT, in which … is any text, and TEXT stands in a heading of the page.
shows() {
    local text=$1 output pattern
    shift
    grep '^## ' "$PAGE" | grep -qF "\`$text\`" || { echo "no heading has: $text"; return 1; }
    if output=$("$@" 2>&1 </dev/null); then
        printf 'this succeeded: %s\n%s\n' "$*" "$output"
        return 1
    fi
    pattern=$(sed 's/[][\.*^$]/\\&/g; s/…/.*/g' <<<"$text")
    grep -q -- "$pattern" <<<"$output" || { printf 'the page has:   %s\nthe client has: %s\n' "$text" "$output"; return 1; }
    echo "$text" >>"$SHOWN"
}

## The gateway and what is around it

gateway_config() {
    server_config | sed "s|^address = \"$HOST\"|address = [\"$HOST\", \"127.0.0.2:${HOST##*:}\"]|"
    cat <<END

[[auth.oidc]]
name = "ci"
issuer = "https://issuer.example"
audience = "dockgate"
jwks = "http://127.0.0.1:1/keys"
user = "job:{sub}"
open = true

[[access]]
users = ["alice"]
repositories = ["team/**"]
actions = ["push"]
effect = "deny"

[[access]]
users = ["*"]
repositories = ["**"]
actions = ["*"]
END
    upstream_config registry ""
    for front in down limited slow; do
        printf '\n[[upstream]]\nname = "%s"\nurl = "http://127.0.0.1:%s"\nprefix = "%s"\nretries = 0\nresponse_timeout = "1s"\n' \
            $front "${PORTS[$front]}" $front
    done
}

# change SED: changes the configuration, and waits until the gateway has read it.
change() {
    local before
    before=$(grep -c 'configuration reloaded' "$WORK/gateway.log" || true)
    sed -i "$1" "$WORK/dockgate.toml"
    kill -HUP "$GATEWAY"
    within 10 reloaded_after "$before"
}
reloaded_after() { [ "$(grep -c 'configuration reloaded' "$WORK/gateway.log")" -gt "$1" ]; }

docker_login() { docker login -u "${1:-$USER_NAME}" --password-stdin "${3:-$HOST}" <<<"${2:-$PASSWORD}"; }
inspect() { skopeo inspect --cert-dir "$WORK/certs/client" --creds "$LOGIN" "docker://$HOST/$1"; }
ctr_pull() { tr_ images pull --snapshotter native --hosts-dir "$WORK/hosts" "$@"; }
copy_to() { skopeo copy --quiet --dest-cert-dir "$WORK/certs/client" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$1"; }

## Each symptom, and its cure

without_a_login() {
    docker logout "$HOST"
    shows 'no basic auth credentials' docker push --quiet "$HOST/shop/web:2"
    docker_login
    docker push --quiet "$HOST/shop/web:2"
}

with_a_wrong_login() {
    shows 'unauthorized: authentication required' skopeo inspect --no-creds --cert-dir "$WORK/certs/client" "docker://$HOST/shop/web:1"
    shows '401 Unauthorized' ctr_pull --user "$USER_NAME:wrong" "$HOST/shop/web:1"
    shows '401 Unauthorized' docker_login "$USER_NAME" wrong
    shows 'invalid username/password' pod login --cert-dir "$WORK/certs/client" -u "$USER_NAME" -p wrong "$HOST"
    ! "$DOCKGATE" user verify "$WORK/htpasswd" "$USER_NAME" --password-stdin <<<wrong
    "$DOCKGATE" user verify "$WORK/htpasswd" "$USER_NAME" --password-stdin <<<"$PASSWORD"
    ctr_pull --user "$LOGIN" "$HOST/shop/web:1"
}

denied() {
    docker_login alice alices
    shows 'denied: requested access to the resource is denied: alice may not push team/app' docker push --quiet "$HOST/team/app:1"
    tr_ images tag --force "$HOST/shop/web:1" "$HOST/team/app:1"
    shows '403 Forbidden' tr_ images push --hosts-dir "$WORK/hosts" --user alice:alices "$HOST/team/app:1"
    refused 'denies' "$DOCKGATE" explain --config "$WORK/dockgate.toml" --user alice push team/app
    change 's/^effect = "deny"/effect = "allow"/'
    docker push --quiet "$HOST/team/app:1"
}

too_many_requests() {
    docker_login
    shows 'toomanyrequests' docker pull --quiet "$HOST/limited/app:1"
    shows '429 Too Many Requests' ctr_pull --user "$LOGIN" "$HOST/limited/app:1"
    says 'the upstream limits the rate' gateway_curl -u "$LOGIN" /v2/limited/app/manifests/1
    within 20 throttled_in_docker
    within 20 throttled_in_words
}

# A client may try again after a while, so that a slow machine may see a 401 in between.
throttled_in_docker() {
    fail_to_log_in
    shows '429 Too Many Requests' docker_login bob "wrong$RANDOM"
}
throttled_in_words() {
    fail_to_log_in
    says 'too many failed logins' gateway_curl -u "bob:wrong$RANDOM" /v2/
}
fail_to_log_in() { for _ in $(seq 12); do gateway_curl -o /dev/null -u "bob:wrong$RANDOM" /v2/; done; }

unknown_authority() {
    local text
    for text in 'x509: certificate signed by unknown authority' 'tls: failed to verify certificate'; do
        shows "$text" env -u SSL_CERT_FILE oras manifest fetch -u "$USER_NAME" -p "$PASSWORD" "$HOST/shop/web:1"
    done
    "$DOCKGATE" client-config podman --config "$WORK/dockgate.toml" --url "https://$HOST" --directory "$WORK/node"
    skopeo inspect --cert-dir "$WORK/node/etc/containers/certs.d/$HOST" --creds "$LOGIN" "docker://$HOST/shop/web:1"
}

folder_with_a_key() {
    shows 'missing client certificate ca.cert for key ca.key' skopeo inspect --cert-dir "$WORK/certs" "docker://$HOST/shop/web:1"
    inspect shop/web:1
}

another_name() {
    local other=127.0.0.2:${HOST##*:}
    shows 'x509: certificate is valid for …, not …' skopeo inspect --cert-dir "$WORK/certs/client" --creds "$LOGIN" "docker://$other/shop/web:1"
    "$DOCKGATE" certificate "$WORK/certs" --name localhost --name 127.0.0.1 --name 127.0.0.2
    within 10 skopeo inspect --cert-dir "$WORK/certs/client" --creds "$LOGIN" "docker://$other/shop/web:1"
}

plain_server() {
    shows 'http: server gave HTTP response to HTTPS client' skopeo inspect "docker://$REGISTRY/shop/web:1"
    skopeo inspect --tls-verify=false "docker://$REGISTRY/shop/web:1"
}

plain_client() {
    shows 'this port speaks HTTPS, not HTTP' oras manifest fetch --plain-http "$HOST/shop/web:1"
    shows '400 Bad Request' tr_ images pull --plain-http --user "$LOGIN" "$HOST/shop/web:1"
    docker logout "$HOST"
    shows 'this port speaks HTTPS, not HTTP' docker pull --quiet "$HOST/shop/web:1"
    docker_login
    docker pull --quiet "$HOST/shop/web:1"
}

# Pairs of gateways behind nginx: with different secrets, and with the same.
upload_unknown() {
    copy_by() { skopeo copy --quiet --dest-tls-verify=false --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://127.0.0.1:${PORTS[$1]}/shop/parts:1"; }
    # docker says it too, after a minute of attempts.
    shows 'blob upload unknown' copy_by different
    crane auth login -u "$USER_NAME" -p "$PASSWORD" "127.0.0.1:${PORTS[different]}"
    shows 'BLOB_UPLOAD_UNKNOWN' crane push --insecure "$WORK/image.tar" "127.0.0.1:${PORTS[different]}/shop/other:1"
    copy_by alike
}

# start_pair NAME [SECRET]
start_pair() {
    local number secret=${2:+secret = \"$2\"}
    for number in 1 2; do
        cat >"$WORK/$1-$number.toml" <<END
[server]
address = "127.0.0.1:${PORTS[$1$number]}"
external_url = "http://127.0.0.1:${PORTS[$1]}"
$secret
[admin]
address = ""
[auth.htpasswd]
path = "htpasswd"
[[upstream]]
url = "http://$REGISTRY"
prefix = ""
END
        start "$1-$number" "$DOCKGATE" serve --config "$WORK/$1-$number.toml"
        started "$STARTED" 30 curl -sS "http://127.0.0.1:${PORTS[$1$number]}/v2/"
    done
}

upstream_down() {
    shows 'received unexpected HTTP status: 502 Bad Gateway' docker pull --quiet "$HOST/down/app:1"
    shows 'UNAVAILABLE' crane manifest "$HOST/down/app:1"
    refused '127.0.0.1|connect|refused' "$DOCKGATE" probe --upstream down --config "$WORK/dockgate.toml"
    shows '504 Gateway Timeout' docker pull --quiet "$HOST/slow/app:1"
}

issuer_down() {
    shows '503 Service Unavailable' docker_login ci "$(fake_token)"
    says 'keys of the token.s issuer|cannot be had' gateway_curl -u "ci:$(fake_token)" /v2/
}

# Of an issuer whose keys cannot be had.
fake_token() {
    local part
    for part in '{"alg":"RS256","typ":"JWT","kid":"1"}' "{\"iss\":\"https://issuer.example\",\"aud\":\"dockgate\",\"sub\":\"a\",\"iat\":$(date +%s),\"exp\":$(($(date +%s) + 600))}"; do
        printf '%s' "$part" | basenc --base64url --wrap=0 | tr -d =
        printf .
    done
    head -c 256 /dev/zero | basenc --base64url --wrap=0 | tr -d =
}

# By a proxy that leads every name to this machine.
unknown_host() {
    local other=other.example:${HOST##*:}
    through_proxy() { HTTPS_PROXY=http://127.0.0.1:${PORTS[proxy]} "$@"; }
    shows '421 Misdirected Request' through_proxy tr_ images pull --snapshotter native --skip-verify --user "$LOGIN" "$other/shop/web:1"
    shows 'this host is not served here' through_proxy crane manifest --insecure "$other/shop/web:1"
    within 5 grep -q 'host=other.example' "$WORK/gateway.log"
    "$DOCKGATE" certificate "$WORK/certs" --name localhost --name 127.0.0.1 --name 127.0.0.2 --name other.example
    through_proxy crane auth login -u "$USER_NAME" -p "$PASSWORD" "$other"
    within 10 through_proxy crane manifest --insecure "$other/shop/web:1"
}

not_there() {
    docker_login
    shows 'manifest unknown' docker pull --quiet "$HOST/shop/none:1"
    shows 'not found' ctr_pull --user "$LOGIN" "$HOST/shop/none:1"
    copy_to "$HOST/shop/none:1"
    docker pull --quiet "$HOST/shop/none:1"
    change 's/^actions = \["push"\]/actions = ["*"]/; s/^effect = "allow"/effect = "deny"/'
    docker_login alice alices
    shows "pull access denied for …, repository does not exist or may require 'docker login'" docker pull --quiet "$HOST/team/app:1"
    docker_login
}

# nginx with its default of 1 MiB, then without.
too_large() {
    local front=127.0.0.1:${PORTS[nginx]}
    docker_login "$USER_NAME" "$PASSWORD" "$front"
    docker tag "$HOST/shop/web:2" "$front/shop/large:1"
    shows '413 Request Entity Too Large' docker push --quiet "$front/shop/large:1"
    change "\$a [[upstream]]\nname = \"large\"\nurl = \"http://127.0.0.1:${PORTS[plain]}\"\nprefix = \"large\""
    # docker says it too, after a minute of attempts.
    shows 'size invalid' copy_to "$HOST/large/app:1"
    sed -i 's/# body/client_max_body_size 0;/' "$WORK/nginx.conf"
    nginx -p "$WORK" -c "$WORK/nginx.conf" -s reload
    within 10 docker push --quiet "$front/shop/large:1"
    copy_to "$HOST/large/app:1"
}

cut_off() {
    shows 'unexpected EOF' skopeo copy --quiet --src-cert-dir "$WORK/certs/client" --src-creds "$LOGIN" "docker://127.0.0.1:${PORTS[cut]}/shop/web:1" "dir:$WORK/cut"
    skopeo copy --quiet --src-cert-dir "$WORK/certs/client" --src-creds "$LOGIN" "docker://$HOST/shop/web:1" "dir:$WORK/whole"
}

no_answer() {
    # By turns.
    docker pull --quiet "127.0.0.1:${PORTS[silent]}/shop/web:1" >"$WORK/silent.out" 2>&1 &
    docker_login "$USER_NAME" "$PASSWORD" "127.0.0.1:${PORTS[silent]}" >"$WORK/silent2.out" 2>&1 || true
    wait $! || true
    says '(context deadline exceeded|Client.Timeout exceeded while awaiting headers)' cat "$WORK/silent.out"
    says '(context deadline exceeded|Client.Timeout exceeded while awaiting headers)' cat "$WORK/silent2.out"
    printf '%s\n' 'context deadline exceeded' 'Client.Timeout exceeded while awaiting headers' >>"$SHOWN"
}

it_does_not_start() {
    local code=0
    "$DOCKGATE" serve --config "$WORK/dockgate.toml" >"$WORK/second.out" 2>&1 || code=$?
    same 1 $code
    says 'cannot listen on' cat "$WORK/second.out"
    code=0
    "$DOCKGATE" serve --config <(echo '[server]
adress = ":5000"') >"$WORK/second.out" 2>&1 || code=$?
    same 2 $code
    says 'address' cat "$WORK/second.out"
}

every_heading_is_shown() {
    local text missing=0
    while IFS= read -r text; do
        grep -qxF -- "$text" "$SHOWN" || grep -qxF -- "$text" <<<"$NOT_SHOWN" || { echo "not shown: $text"; missing=1; }
    done < <(grep '^## ' "$PAGE" | grep -v X-Cache | grep -o '`[^`]*`' | tr -d '`')
    return $missing
}

declare -A PORTS=([down]=1)
for port in limited slow silent cut different different1 different2 alike alike1 alike2 proxy nginx plain; do PORTS[$port]=$(free_port); done
: >"$SHOWN"
start_registry
start_gateway
htpasswd -Bb "$WORK/htpasswd" alice alices
htpasswd -Bb "$WORK/htpasswd" bob bobs
start limited python3 "$FRONTS" "127.0.0.1:${PORTS[limited]}" limits
start slow python3 "$FRONTS" "127.0.0.1:${PORTS[slow]}" hangs
start silent python3 "$FRONTS" "127.0.0.1:${PORTS[silent]}" hangs
start cut python3 "$FRONTS" "127.0.0.1:${PORTS[cut]}" cuts "$HOST" 200000
cat >"$WORK/nginx.conf" <<END
pid $WORK/nginx.pid;
error_log $WORK/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $WORK/nginx-bodies;
    # body
    # One begins the uploads, the other goes on with them.
    map \$request_method \$different { POST 127.0.0.1:${PORTS[different1]}; default 127.0.0.1:${PORTS[different2]}; }
    map \$request_method \$alike { POST 127.0.0.1:${PORTS[alike1]}; default 127.0.0.1:${PORTS[alike2]}; }
    server {
        listen 127.0.0.1:${PORTS[nginx]} ssl;
        ssl_certificate $CERTIFICATE;
        ssl_certificate_key $KEY;
        location / { proxy_pass https://$HOST; proxy_set_header Host \$http_host; }
    }
    server {
        listen 127.0.0.1:${PORTS[plain]};
        location / { proxy_pass http://$REGISTRY; proxy_set_header Host \$http_host; }
    }
    server {
        listen 127.0.0.1:${PORTS[different]};
        client_max_body_size 0;
        location / { proxy_pass http://\$different; proxy_set_header Host \$http_host; }
    }
    server {
        listen 127.0.0.1:${PORTS[alike]};
        client_max_body_size 0;
        location / { proxy_pass http://\$alike; proxy_set_header Host \$http_host; }
    }
}
END
start proxy python3 "$ROOT/tests/support/connect_proxy.py" "127.0.0.1:${PORTS[proxy]}" other.example
start_pair different
start_pair alike "$("$DOCKGATE" secret)"
start nginx nginx -p "$WORK" -c "$WORK/nginx.conf" -g 'daemon off;'
make_image "$WORK/image" 4
need_crane
need_tool oras "$ORAS"
within 10 copy_to "$HOST/shop/web:1"
skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/image.tar:image:1"
hosts_toml "$HOST" "https://$HOST" "https://$HOST"
start_containerd
start_dockerd
export SSL_CERT_FILE=$CA
docker load --quiet --input "$WORK/image.tar"
for name in shop/web:2 team/app:1; do docker tag image:1 "$HOST/$name"; done

check "no login" without_a_login
check "a wrong login" with_a_wrong_login
check "denied" denied
check "an upstream that limits the rate, and too many failed logins" too_many_requests
check "an unknown authority" unknown_authority
check "a folder with a key" folder_with_a_key
check "another name" another_name
check "a server without TLS" plain_server
check "a client without TLS" plain_client
check "replicas with different secrets" upload_unknown
check "an upstream that is down, or slow" upstream_down
check "an issuer that is down" issuer_down
check "an unknown host" unknown_host
check "not there" not_there
check "a proxy that limits bodies" too_large
check "a proxy that cuts transfers" cut_off
check "no answer" no_answer
check "the gateway does not start" it_does_not_start
check "every heading is shown" every_heading_is_shown

done_checking
