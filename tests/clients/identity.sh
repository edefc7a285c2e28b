#!/usr/bin/env bash
# Identities with real clients: each client without a login, with a password, as a workload, as a robot and by a certificate
# pulls, pushes and mounts what it may, and is refused what it may not, once where the gateway's challenge is Bearer, with
# its own token service, and once where it is Basic. The table is that of tests/README.md. Then what clients send without
# a login for this gateway: `Basic Og==`, and Docker Hub's password. IDENTITY='crane oras' checks these clients alone.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"
source "$CLIENTS/table.sh"

VARIANTS=(bearer basic)
CASES=(anonymous private login pull denied push mount unmountable workload robot certificate)
ROWS=(docker containerd podman skopeo buildah crane oras)
[ -z "${IDENTITY:-}" ] || read -ra ROWS <<<"$IDENTITY"

NO_COMMAND=(
    "docker|anonymous|without a login it stops at a Basic challenge, and never asks for the image|basic"
    "crane|certificate|it has no option for a client's certificate"
)
NOTES=(
    "containerd|login|ctr stores no password: every command brings it, and a wrong one is refused there"
    "crane|login|it stores a password unseen: a wrong one is refused with the next command"
    "podman skopeo buildah|unmountable|they look for the blob in the other repository first, and upload it when that is refused"
    "docker|certificate|it shows none on 127.0.0.0/8, and reaches the gateway by a proxy and another address"
)

OWNER=owner
OWNER_PASSWORD=owners-own-5qZ2
# Has never logged in when docker sends Docker Hub's password under the same name.
HUB_USER=hubber
HUB_PASSWORD=hubs-own-7wD9
HUBBER_PASSWORD=hubbers-own-2nY6
ROBOT_REPOSITORIES='ci/**:pull,push'
# By which docker reaches the gateways where it shows a certificate: it shows none on 127.0.0.0/8.
ELSEWHERE=192.0.2.1

# The client's words when it has no login, and when its login may not.
UNKNOWN='[Uu]nauthorized|UNAUTHORIZED|authentication required|no basic auth credentials|authorization failed|insufficient_scope|401|credential not found'
DENIED="$UNKNOWN|[Ff]orbidden|[Dd]enied|DENIED|403"

## The gateways: one a challenge, before the one registry. Each listens on a second address, where clients show a certificate.

declare -A hosts=() certified=() logs=()

start_gateways() {
    local variant
    server_certificate "$WORK/certs"
    client_certificate "$WORK/clients"
    make_htpasswd "$WORK/htpasswd"
    htpasswd -Bbn -C 5 "$OWNER" "$OWNER_PASSWORD" >>"$WORK/htpasswd"
    htpasswd -Bbn -C 5 "$HUB_USER" "$HUBBER_PASSWORD" >>"$WORK/htpasswd"
    platform_key
    for variant in "${VARIANTS[@]}"; do
        hosts[$variant]=127.0.0.1:$(free_port)
        certified[$variant]=127.0.0.1:$(free_port)
        identities_config "$variant" >"$WORK/$variant.toml"
        start "gateway-$variant" "$DOCKGATE" serve --config "$WORK/$variant.toml"
        HOST=${hosts[$variant]}
        started "$STARTED" 30 answers
        trust_everywhere
        HOST=${certified[$variant]}
        trust_everywhere
        show_certificate
        HOST=$ELSEWHERE:${HOST#*:}
        trust_everywhere
        show_certificate
    done
    ROBOT=$("$DOCKGATE" token mint --config "$WORK/bearer.toml" --user ci --access "$ROBOT_REPOSITORIES" --ttl 1h 2>"$WORK/mint.log")
    JWT=$(workload_token)
}

# identities_config VARIANT: both have the one key of tokens, so that a robot is one at both.
identities_config() {
    cat <<END
[server]
address = ["${hosts[$1]}", "${certified[$1]}"]

[server.tls]
certificate = "$CERTIFICATE"
key = "$KEY"
client_ca = "clients/ca.crt"

[admin]
address = ""

[log]
level = "info,dockgate::gateway::upload=debug"

[auth]
challenge = "$1"

[auth.htpasswd]
path = "htpasswd"

[auth.token]

[[auth.oidc]]
name = "platform"
issuer = "https://platform.example"
audience = "dockgate"
jwks = "platform.json"
user = "repo:{repository}"
require = { repository_owner = "acme" }

[auth.client_certificate]
user = "san:dns"

[[access]]
users = ["anonymous", "*"]
repositories = ["public/**"]
actions = ["pull"]

[[access]]
users = ["$USER_NAME", "repo:acme/*", "dns:node*.example"]
repositories = ["team/**"]
actions = ["pull", "push"]

# Whatever a robot's own token says besides.
[[access]]
users = ["robot:ci"]
repositories = ["ci/**", "team/**"]
actions = ["pull", "push"]

[[access]]
users = ["$OWNER"]
repositories = ["**"]
actions = ["*"]
$(upstream_config registry "")
END
}

# server_certificate DIR: as make_certificate, and for ELSEWHERE.
server_certificate() {
    "$DOCKGATE" certificate "$1" --name localhost --name 127.0.0.1 --name "$ELSEWHERE" >"$WORK/certificate.log" 2>&1
    CA=$1/ca.crt
    CERTIFICATE=$1/domain.crt
    KEY=$1/domain.key
}

# client_certificate DIR: an authority of clients, and the certificate of node7.example.
client_certificate() {
    mkdir -p "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=clients' \
        -keyout "$1/ca.key" -out "$1/ca.crt" 2>"$WORK/openssl.log"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=node7' -keyout "$1/client.key" \
        -out "$1/client.csr" 2>>"$WORK/openssl.log"
    printf 'subjectAltName = DNS:node7.example\nextendedKeyUsage = clientAuth\n' >"$1/client.ext"
    openssl x509 -req -days 2 -in "$1/client.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial -extfile "$1/client.ext" \
        -out "$1/client.cert" 2>>"$WORK/openssl.log"
}

# Docker, containerd, podman, skopeo and buildah trust the gateway's CA on HOST.
trust_everywhere() {
    trust_in_docker
    hosts_toml "$HOST" "https://$HOST" "https://$HOST" "$(client_line)"
    mkdir -p "$(trust)"
    cp "$CA" "$(trust)"
}

# trust: the folder for --cert-dir.
trust() { echo "$WORK/trust/$HOST"; }

client_line() {
    [[ " ${certified[*]} " != *" $HOST "* ]] || echo "client = [[\"$WORK/clients/client.cert\", \"$WORK/clients/client.key\"]]"
}

# The clients show the certificate on HOST.
show_certificate() {
    local dir
    for dir in "/etc/docker/certs.d/$HOST" "$(trust)"; do
        cp "$WORK/clients/client.cert" "$WORK/clients/client.key" "$dir"
    done
}

base64url() { basenc --base64url --wrap=0 | tr -d =; }

# The key of the workloads' platform, and its set of keys.
platform_key() {
    openssl genrsa -out "$WORK/platform.key" 2048 2>>"$WORK/openssl.log"
    jq -n --arg n "$(openssl rsa -in "$WORK/platform.key" -noout -modulus | cut -d= -f2 | basenc --base16 -d | base64url)" \
        '{keys: [{kty: "RSA", alg: "RS256", use: "sig", kid: "1", e: "AQAB", n: $n}]}' >"$WORK/platform.json"
}

# A workload's token, as its platform would sign it.
workload_token() {
    local now signed
    now=$(date +%s)
    signed=$(printf '{"alg":"RS256","kid":"1","typ":"JWT"}' | base64url).$(jq -cn --argjson now "$now" '{
        iss: "https://platform.example", aud: "dockgate", sub: "job", iat: $now, exp: ($now + 3600),
        repository: "acme/app", repository_owner: "acme"}' | base64url)
    echo "$signed.$(printf %s "$signed" | openssl dgst -sha256 -sign "$WORK/platform.key" | base64url)"
}

# fill_registry: public/web for everyone; for each client an image of its own in team/CLIENT, in closed/CLIENT, which only
# the owner may pull, and beside it, to push. No two have a blob in common, so that a client knows of no other place to
# mount it from.
fill_registry() {
    local client pid pids=() seed=2
    put_image public/web 1 &
    pids+=($!)
    for client in "${ROWS[@]}"; do
        fill_for "$client" "$seed" &
        pids+=($!)
        seed=$((seed + 3))
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

# fill_for CLIENT SEED
fill_for() {
    put_image "team/$1" "$2"
    put_image "closed/$1" $(($2 + 1))
    make_image "$WORK/images/own/$1" 2 $(($2 + 2))
}

# put_image REPOSITORY SEED: past the gateways.
put_image() {
    make_image "$WORK/images/$1" 2 "$2"
    skopeo copy --quiet --preserve-digests --dest-tls-verify=false "oci:$WORK/images/$1:1" "docker://$REGISTRY/$1:1"
}

# digest_of IMAGE: of the image in the repository that it names.
digest_of() {
    local repository=${1#*/}
    manifest_digest "$WORK/images/${repository%:*}"
}

## The clients, on HOST. CLIENT is the one that is checked.
#
# prepare_CLIENT · CLIENT_begin, with an empty store · CLIENT_login USER PASSWORD · CLIENT_pull IMAGE, all of it anew · CLIENT_push IMAGE, of the client's own image ·
# CLIENT_copy SOURCE IMAGE USER:PASSWORD, as the user who has logged in, having pulled the source as that one.

forget_logins() {
    rm -f "$DOCKER_CONFIG/config.json" "$WORK/ctr.login"
    echo '{}' >"$REGISTRY_AUTH_FILE"
}

# own_image CLIENT: the image that it pushes, in CLIENT.tar.
own_image() {
    skopeo copy --quiet "oci:$WORK/images/own/$1:1" "docker-archive:$WORK/$1.tar:own.example/$1:1"
}

log_in_as() { "${CLIENT}_login" "${1%%:*}" "${1#*:}"; }

prepare_docker() {
    local proxy
    proxy=127.0.0.1:$(free_port)
    start proxy python3 "$SUPPORT/connect_proxy.py" "$proxy" "$ELSEWHERE"
    export HTTPS_PROXY=http://$proxy NO_PROXY=127.0.0.1
    start_dockerd
    unset HTTPS_PROXY NO_PROXY
    own_image docker
}
docker_begin() {
    docker image prune --all --force
    docker load --quiet --input "$WORK/docker.tar"
}
daemon_settings() {
    jq -n --arg basic "https://${hosts[basic]}" --arg bearer "https://${hosts[bearer]}" \
        '{features: {"containerd-snapshotter": false}, "registry-mirrors": [$basic, $bearer]}' >"$1" && echo "$1"
}
docker_login() { says 'Login Succeeded' docker login --username "$1" --password-stdin "$HOST" <<<"$2"; }
docker_pull() {
    docker image rm --force "$1"
    same "$(digest_of "$1")" "$(docker pull "$1" | sed -n 's/^Digest: //p')"
}
docker_push() {
    docker tag own.example/docker:1 "$1"
    says 'digest: sha256' docker push "$1"
}
docker_copy() {
    log_in_as "$3"
    docker_pull "$1"
    log_in_as "$USER_NAME:$PASSWORD"
    docker tag "$1" "$2"
    says 'digest: sha256' docker push "$2"
    docker image rm "$1" "$2"
}
# dockerd believes that a registry on 127.0.0.0/8 may also speak plain HTTP: a refused pull is tried again without TLS,
# and that attempt's error is what the user sees. The first refusal is in dockerd's log.
docker_is_refused() {
    : >"$WORK/dockerd.log"
    refused '' docker pull "$2"
    logs_say "$1" "$WORK/dockerd.log"
}

prepare_containerd() {
    start_containerd
    own_image containerd
}
containerd_begin() { tr_ images import --snapshotter native "$WORK/containerd.tar"; }
# With the login of containerd_login.
ctr_() {
    local login=()
    [ ! -e "$WORK/ctr.login" ] || login=(--user "$(cat "$WORK/ctr.login")")
    tr_ images "$1" --hosts-dir "$WORK/hosts" "${login[@]}" "${@:2}"
}
containerd_login() { echo "$1:$2" >"$WORK/ctr.login"; }
containerd_pull() {
    tr_ images rm --sync "$1"
    ctr_ pull --snapshotter native "$1"
    same "$(digest_of "$1")" "$(tr_ images ls "name==$1" | awk 'NR == 2 { print $3 }')"
}
containerd_push() {
    tr_ images tag --force own.example/containerd:1 "$1"
    ctr_ push "$1"
}
containerd_copy() {
    log_in_as "$3"
    containerd_pull "$1"
    log_in_as "$USER_NAME:$PASSWORD"
    tr_ images tag "$1" "$2"
    ctr_ push "$2"
    tr_ images rm --sync "$1" "$2"
}

prepare_podman() { own_image podman; }
prepare_buildah() { own_image buildah; }
podman_begin() { containers_begin; }
buildah_begin() { containers_begin; }
containers_begin() {
    containers rmi --all --force
    containers pull --quiet "docker-archive:$WORK/$CLIENT.tar"
}
containers() { "containers_$CLIENT" "$@"; }
containers_podman() { pod "$@"; }
containers_buildah() { buildah --storage-driver vfs --root "$WORK/buildah" --runroot "$SHORT/buildah" "$@"; }
containers_login() { says 'Login Succeeded' containers login --cert-dir "$(trust)" -u "$1" --password-stdin "$HOST" <<<"$2"; }
containers_pull() {
    ! containers inspect --type image "$1" >/dev/null 2>&1 || containers rmi --force "$1"
    containers pull --quiet --cert-dir "$(trust)" "$1"
    # podman says it in an array.
    same "$(digest_of "$1")" \
        "$(containers inspect --type image "$1" | jq -r 'if type == "array" then .[0].Digest else .FromImageDigest end')"
}
containers_push() { containers push --quiet --cert-dir "$(trust)" "own.example/$CLIENT:1" "docker://$1"; }
containers_copy() {
    log_in_as "$3"
    containers_pull "$1"
    log_in_as "$USER_NAME:$PASSWORD"
    containers push --quiet --cert-dir "$(trust)" "$1" "docker://$2"
}
podman_login() { containers_login "$@"; }
podman_pull() { containers_pull "$@"; }
podman_push() { containers_push "$@"; }
podman_copy() { containers_copy "$@"; }
buildah_login() { containers_login "$@"; }
buildah_pull() { containers_pull "$@"; }
buildah_push() { containers_push "$@"; }
buildah_copy() { containers_copy "$@"; }

skopeo_login() { says 'Login Succeeded' skopeo login --cert-dir "$(trust)" -u "$1" --password-stdin "$HOST" <<<"$2"; }
skopeo_pull() {
    rm -rf "$WORK/back"
    skopeo copy --quiet --src-cert-dir "$(trust)" "docker://$1" "oci:$WORK/back:1"
    same "$(digest_of "$1")" "$(manifest_digest "$WORK/back")"
}
skopeo_push() {
    skopeo copy --quiet --preserve-digests --dest-cert-dir "$(trust)" "oci:$WORK/images/own/skopeo:1" "docker://$1"
}
# A blob that it has read before it looks for in the repository where it was.
skopeo_copy() {
    log_in_as "$3"
    skopeo_pull "$1"
    log_in_as "$USER_NAME:$PASSWORD"
    skopeo copy --quiet --preserve-digests --src-cert-dir "$(trust)" --dest-cert-dir "$(trust)" --src-creds "$3" \
        "docker://$1" "docker://$2"
}

prepare_crane() { need_crane; }
crane_login() { crane auth login "$HOST" --username "$1" --password-stdin <<<"$2"; }
crane_pull() {
    rm -rf "$WORK/back"
    crane pull --format oci "$1" "$WORK/back"
    same "$(digest_of "$1")" "$(manifest_digest "$WORK/back")"
}
crane_push() { crane push "$WORK/images/own/crane" "$1"; }
# A login may be for one repository.
crane_copy() {
    crane_login "${3%%:*}" "${3#*:}"
    jq --arg host "$HOST" --arg source "${1%:*}" --arg login "$(printf %s "$USER_NAME:$PASSWORD" | base64 -w0)" \
        '.auths = {($source): .auths[$host], ($host): {auth: $login}}' "$DOCKER_CONFIG/config.json" >"$WORK/crane.json"
    cp "$WORK/crane.json" "$DOCKER_CONFIG/config.json"
    crane copy "$1" "$2"
}

prepare_oras() { need_tool oras "$ORAS"; }
oras_login() { says 'Login Succeeded' oras login -u "$1" --password-stdin "$HOST" <<<"$2"; }
oras_pull() {
    local pair=()
    [ ! -e "$(trust)/client.cert" ] || pair=(--from-cert-file "$(trust)/client.cert" --from-key-file "$(trust)/client.key")
    rm -rf "$WORK/back"
    oras cp "${pair[@]}" "$1" --to-oci-layout "$WORK/back:1"
    same "$(digest_of "$1")" "$(manifest_digest "$WORK/back")"
}
oras_push() { oras cp --from-oci-layout "$WORK/images/own/oras:1" "$1"; }
oras_copy() { oras cp --from-username "${3%%:*}" --from-password "${3#*:}" "$1" "$2"; }

## The cases. MINE is where the client pushes: a repository of its own for each challenge.

# is_refused WORDS IMAGE: the pull, in these words.
is_refused() {
    if [ "$CLIENT" = docker ]; then
        docker_is_refused "$@"
    else
        refused "$1" "${CLIENT}_pull" "$2"
    fi
}

case_anonymous() {
    forget_logins
    "${CLIENT}_pull" "$HOST/public/web:1"
}

case_private() {
    forget_logins
    is_refused "$UNKNOWN" "$HOST/team/$CLIENT:1"
}

# A wrong password first.
case_login() {
    forget_logins
    case $CLIENT in
        containerd | crane)
            "${CLIENT}_login" "$USER_NAME" wrong
            is_refused "$UNKNOWN" "$HOST/team/$CLIENT:1"
            ;;
        *) refused "$UNKNOWN|invalid username" "${CLIENT}_login" "$USER_NAME" wrong ;;
    esac
    log_in_as "$USER_NAME:$PASSWORD"
}

case_pull() { "${CLIENT}_pull" "$HOST/team/$CLIENT:1"; }

# With a login that may not.
case_denied() { is_refused "$DENIED" "$HOST/closed/$CLIENT:1"; }

case_push() {
    "${CLIENT}_push" "$HOST/team/$MINE:1"
    is_at_the_upstream "team/$MINE"
}

case_mount() {
    "${CLIENT}_copy" "$HOST/team/$CLIENT:1" "$HOST/team/$MINE-mounted:1" "$USER_NAME:$PASSWORD"
    is_at_the_upstream "team/$MINE-mounted"
    within 10 is_mounted "team/$MINE-mounted" "team/$CLIENT"
}

# Pulled as the owner, and pushed as a user who may not pull it: the client uploads what it can't mount.
case_unmountable() {
    : >"${logs[$VARIANT]}"
    "${CLIENT}_copy" "$HOST/closed/$CLIENT:1" "$HOST/team/$MINE-uploaded:1" "$OWNER:$OWNER_PASSWORD"
    is_at_the_upstream "team/$MINE-uploaded"
    within 10 is_uploaded "team/$MINE-uploaded"
    same none "$(mounts_of "team/$MINE-uploaded" | grep . || echo none)"
    # It was not for want of trying.
    logs_say "no mount: .* from=\"?closed/$CLIENT|blob (401|403) repository=closed/$CLIENT .*user=$USER_NAME" "${logs[$VARIANT]}"
}

# The token of its platform is the password.
case_workload() {
    forget_logins
    "${CLIENT}_login" platform "$JWT"
    "${CLIENT}_pull" "$HOST/team/$CLIENT:1"
    "${CLIENT}_push" "$HOST/team/$MINE-job:1"
    is_refused "$DENIED" "$HOST/closed/$CLIENT:1"
}

# The rules let it into team/, which its token does not have.
case_robot() {
    forget_logins
    "${CLIENT}_login" robot "$ROBOT"
    "${CLIENT}_push" "$HOST/ci/$MINE:1"
    is_at_the_upstream "ci/$MINE"
    is_refused "$DENIED" "$HOST/team/$CLIENT:1"
    refused "$DENIED" "${CLIENT}_push" "$HOST/team/$MINE-robot:1"
}

case_certificate() {
    forget_logins
    HOST=${certified[$VARIANT]}
    [ "$CLIENT" != docker ] || HOST=$ELSEWHERE:${HOST#*:}
    "${CLIENT}_pull" "$HOST/team/$CLIENT:1"
    is_refused "$DENIED" "$HOST/closed/$CLIENT:1"
}

## What the registry and the gateways saw

# logs_say WORDS FILE: lines are written after the answer.
logs_say() {
    within 10 grep -qE -- "$1" "$2" || has "$1" "$(cat "$2")"
}

is_at_the_upstream() { curl -fsS -o /dev/null -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json' "http://$REGISTRY/v2/$1/manifests/1"; }

# answers_to REPOSITORY METHOD: `METHOD STATUS QUERY` of each such request for its uploads.
answers_to() {
    sed -nE "s,.*\"($2) /v2/$1/blobs/uploads/([^ ]*) HTTP/[0-9.]+\" ([0-9]{3}) .*,\1 \3 \2,p" "$WORK/registry.log"
}

# mounts_of REPOSITORY: what was asked to be mounted there, and given.
mounts_of() { answers_to "$1" POST | sed -nE 's/%2F/\//g; /^POST 201 .*mount=/p'; }

# is_mounted REPOSITORY FROM
is_mounted() { mounts_of "$1" | grep "from=$2" >/dev/null; }

is_uploaded() { answers_to "$1" PUT | grep '^PUT 201' >/dev/null; }

## The rest

# A mount from a repository that they may not pull gives no blob to anyone, whatever they know of its digest.
mounts_give_nothing() {
    local login blob path
    blob=$(jq -r '.layers[1].digest' "$WORK/images/closed/${ROWS[0]}/blobs/$(digest_of "$HOST/closed/${ROWS[0]}:1" | tr : /)")
    for login in "$USER_NAME:$PASSWORD" "platform:$JWT" "robot:$ROBOT"; do
        path=/v2/team/$VARIANT-curl
        [ "$login" != "robot:$ROBOT" ] || path=/v2/ci/$VARIANT-curl
        same 202 "$(status -u "$login" -X POST "$path/blobs/uploads/?mount=$blob&from=closed/${ROWS[0]}")"
        same 404 "$(status -u "$login" -I "$path/blobs/$blob")"
    done
    path=/v2/team/$VARIANT-curl
    same 201 "$(status -u "$OWNER:$OWNER_PASSWORD" -X POST "$path/blobs/uploads/?mount=$blob&from=closed/${ROWS[0]}")"
    same 401 "$(status -X POST "$path/blobs/uploads/?mount=$blob&from=closed/${ROWS[0]}")"
}

status() { gateway_curl -o /dev/null -w '%{http_code}' "$@"; }

docker_needs_a_login() {
    forget_logins
    docker_is_refused 'no basic auth credentials' "$HOST/public/web:1"
}

# sends_an_empty_login CLIENT: name and password, and is anonymous.
sends_an_empty_login() {
    CLIENT=$1
    forget_logins
    : >"$CAPTURE"
    : >"${logs[basic]}"
    if [ "$(type -t "${CLIENT}_begin")" = function ]; then "${CLIENT}_begin"; fi
    "${CLIENT}_pull" "$HOST/public/web:1"
    has '^[Aa]uthorization: Basic Og==' "$(tr -d '\r' <"$CAPTURE" | grep -ai '^authorization:')"
    logs_say 'manifest 200 repository=public/web .*user=anonymous' "${logs[basic]}"
    is_refused "$UNKNOWN" "$HOST/closed/$CLIENT:1"
    lacks 'failed_login' "${logs[basic]}"
}

docker_pulls_by_the_mirror() {
    forget_logins
    docker pull docker.io/public/web:1
    docker image rm docker.io/public/web:1
}

# docker sends Docker Hub's password to its mirrors. The user has the same name here, and another password, by which nobody
# has logged in yet: a password that is wrong again and again is one failure.
hub_passwords_lock_nobody_out() {
    local pull variant
    forget_logins
    jq -n --arg auth "$(printf %s "$HUB_USER:$HUB_PASSWORD" | base64 -w0)" '{auths: {"https://index.docker.io/v1/": {auth: $auth}}}' \
        >"$DOCKER_CONFIG/config.json"
    for variant in "${VARIANTS[@]}"; do : >"${logs[$variant]}"; done
    for pull in {1..12}; do refused '' docker pull "docker.io/public/absent:$pull"; done
    for variant in "${VARIANTS[@]}"; do
        HOST=${hosts[$variant]}
        within 10 failures_are_logged 12 "${logs[$variant]}"
        lacks ' access: [^ ]+ 429 ' "${logs[$variant]}"
        same 200 "$(status -u "$HUB_USER:$HUBBER_PASSWORD" /v2/)"
        same 200 "$(status -u "$USER_NAME:$PASSWORD" /v2/)"
    done
}

# failures_are_logged COUNT FILE
failures_are_logged() { [ "$(grep -c " 401 .*failed_login=$HUB_USER" "$2")" -ge "$1" ]; }

no_secret_is_logged() {
    local variant secret
    for variant in "${VARIANTS[@]}"; do
        for secret in "$OWNER_PASSWORD" "$HUB_PASSWORD" "$HUBBER_PASSWORD" "$ROBOT" "$JWT"; do
            lacks "$secret" "${logs[$variant]}"
        done
    done
}

is_checked() { [[ " ${ROWS[*]} " = *" $1 "* ]]; }

check_all() {
    local case before
    HOST=${hosts[$VARIANT]}
    MINE=$CLIENT-$VARIANT
    if [ "$(type -t "${CLIENT}_begin")" = function ]; then "${CLIENT}_begin" >/dev/null; fi
    for case in "${CASES[@]}"; do
        before=$failed
        has_no_command "$CLIENT" "$case" "$VARIANT" || {
            check "$CLIENT: $case, $VARIANT" "case_$case"
            [ "$failed" != "$before" ] || passes "$CLIENT" "$case" "$VARIANT"
        }
    done
}

REGISTRY_LOGS_NOTHING=false
start_registry
UPSTREAM=$REGISTRY
start_gateways
for VARIANT in "${VARIANTS[@]}"; do logs[$VARIANT]=$WORK/gateway-$VARIANT.log; done
fill_registry
export SSL_CERT_FILE=$CA
for CLIENT in "${ROWS[@]}"; do
    if [ "$(type -t "prepare_$CLIENT")" = function ]; then "prepare_$CLIENT"; fi
    for VARIANT in "${VARIANTS[@]}"; do check_all; done
done

for VARIANT in "${VARIANTS[@]}"; do
    HOST=${hosts[$VARIANT]}
    check "a mount from a closed repository gives nothing, $VARIANT" mounts_give_nothing
done
if is_checked docker; then
    HOST=${hosts[basic]}
    check "docker without a login stops at a Basic challenge" docker_needs_a_login
    check "docker without a login pulls by a mirror" docker_pulls_by_the_mirror
    check "Docker Hub's password, sent to a mirror, locks nobody out" hub_passwords_lock_nobody_out
fi
HOST=${hosts[basic]}
start_tap
trust_everywhere
for CLIENT in podman skopeo buildah; do
    ! is_checked "$CLIENT" || check "$CLIENT without a login sends an empty one, and is anonymous" sends_an_empty_login "$CLIENT"
done
check "no log has a secret" no_secret_is_logged

table >"$WORK/table"
cat "$WORK/table"
check "the table is that of tests/README.md" is_the_table_of_the_readme

done_checking
