# shellcheck shell=bash disable=SC2034
# Sourced after lib.sh: upstreams that want credentials. They speak TLS, with a CA of their own that no client trusts.
# The gateway's account at them is `robot`; alice and bob have others.

SUPPORT=$ROOT/tests/support
DISTRIBUTION=github.com/distribution/distribution/v3/cmd/registry@v3.0.0
ROBOT_PASSWORD=robots-own-9fK4
ALICE_PASSWORD=alices-own-3mX7
BOB_PASSWORD=bobs-own-8tL1
SERVICE=registry.test
# Of the token server, besides.
TOKEN_OPTIONS=()
ISSUER=tokens.test
# What a JWT looks like.
TOKEN='eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}'

# upstream_certificate: UPSTREAM_CA, UPSTREAM_CERTIFICATE, UPSTREAM_KEY.
upstream_certificate() {
    [ -z "${UPSTREAM_CA:-}" ] || return 0
    make_certificate "$WORK/upstream"
    UPSTREAM_CA=$CA
    UPSTREAM_CERTIFICATE=$CERTIFICATE
    UPSTREAM_KEY=$KEY
}

accounts() { printf '%s\n' "robot:$ROBOT_PASSWORD" "alice:$ALICE_PASSWORD" "bob:$BOB_PASSWORD"; }

# robot has no rights in `secret/`, nor anyone; `public/` is for everybody.
rights() {
    cat <<END
robot repository:shop/* *
robot repository:web *
robot registry:catalog *
alice repository:alice/* *
bob repository:bob/* *
- repository:public/* pull
END
}

# On TOKENS, its log tokens.log.
start_token_server() {
    upstream_certificate
    TOKENS=127.0.0.1:$(free_port)
    accounts >"$WORK/accounts"
    rights >"$WORK/rights"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ISSUER" \
        -keyout "$WORK/token.key" -out "$WORK/token.crt" 2>"$WORK/openssl.log"
    start tokens python3 "$SUPPORT/token_server.py" --listen "$TOKENS" --key "$WORK/token.key" --certificate "$WORK/token.crt" \
        --issuer "$ISSUER" --service "$SERVICE" --accounts "$WORK/accounts" --access "$WORK/rights" \
        --tls-certificate "$UPSTREAM_CERTIFICATE" --tls-key "$UPSTREAM_KEY" "${TOKEN_OPTIONS[@]}"
    started "$STARTED" 30 upstream_curl "https://$TOKENS/token?service=$SERVICE"
    : >"$WORK/tokens.log"
}

# Of every token request since `: >tokens.log`: who asked, and with what success.
token_accounts() { sed -nE 's/^(GET|POST) account=([^ ]*) .*/\2/p' "$WORK/tokens.log" | sort -u; }

token_requests() { grep -c '^GET\|^POST' "$WORK/tokens.log" || true; }

# upstream_curl ARGUMENTS...: with the upstreams' CA and no login.
upstream_curl() { curl -sS --cacert "$UPSTREAM_CA" --max-time 60 "$@"; }

# upstream_token SCOPE [NAME:PASSWORD]: a token as the robot, or another.
upstream_token() {
    upstream_curl -u "${2:-robot:$ROBOT_PASSWORD}" "https://$TOKENS/token?service=$SERVICE&scope=$1" | jq -r .token
}

# A registry behind the token server, on REGISTRY: its log names the user of each request. UPSTREAM_URL is the registry.
start_token_registry() {
    REGISTRY=127.0.0.1:$(free_port)
    start_token_server
    token_registry_config "https://$TOKENS/token" >"$WORK/registry.yml"
    serve_registry docker-registry
}

# token_registry_config REALM
token_registry_config() {
    registry_config
    cat <<END
auth:
  token: {realm: "$1", service: $SERVICE, issuer: $ISSUER, rootcertbundle: "$WORK/token.crt"}
END
}

# STORAGE_MIDDLEWARE is a line of the registry's configuration.
registry_config() {
    cat <<END
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: "$WORK/registry"}, delete: {enabled: true}}
http: {addr: "$REGISTRY", tls: {certificate: "$UPSTREAM_CERTIFICATE", key: "$UPSTREAM_KEY"}}
${STORAGE_MIDDLEWARE:-}
END
}

# A registry with an htpasswd file of its own, on REGISTRY.
start_htpasswd_registry() {
    upstream_certificate
    REGISTRY=127.0.0.1:$(free_port)
    htpasswd -Bbn -C 5 robot "$ROBOT_PASSWORD" >"$WORK/upstream.htpasswd"
    {
        registry_config
        echo "auth: {htpasswd: {realm: 'Upstream Realm', path: \"$WORK/upstream.htpasswd\"}}"
    } >"$WORK/registry.yml"
    serve_registry docker-registry
}

# Distribution 3 behind the token server, on REGISTRY.
start_distribution() {
    REGISTRY=127.0.0.1:$(free_port)
    start_token_server
    token_registry_config "https://$TOKENS/token" >"$WORK/registry.yml"
    OTEL_TRACES_EXPORTER=none serve_registry "$TOOLS/bin/registry"
}

need_distribution() {
    [ -x "$TOOLS/bin/registry" ] || go_as_user env GOBIN="$TOOLS/bin" go install "$DISTRIBUTION"
}

# serve_registry PROGRAM
serve_registry() {
    # podman's REGISTRY_AUTH_FILE would be taken for the registry's own auth.file.
    start registry env -u REGISTRY_AUTH_FILE "$1" serve "$WORK/registry.yml"
    REGISTRY_PID=$STARTED
    UPSTREAM_URL=https://$REGISTRY
    started "$STARTED" 30 registry_wants_login
}

registry_wants_login() { [ "$(upstream_curl -o /dev/null -w '%{http_code}' "https://$REGISTRY/v2/")" = 401 ]; }

# Who has asked the registry for anything, by its log.
registry_users() { grep -ohE 'auth\.user\.name="?[^" ]*' "$WORK/registry.log" | sed 's/.*="\?//' | sort -u; }

# start_cdn [STORAGE]: where blobs are, on CDN, when the registry's storage, in STORAGE, redirects there. The first answer is
# a second redirect, relative, whose signature must come back byte for byte. What belongs to the registry alone, credentials
# and `ns`, is refused, and logged.
start_cdn() {
    local storage=${1:-$WORK/registry}
    upstream_certificate
    CDN=127.0.0.1:$(free_port)
    STORAGE_MIDDLEWARE="middleware: {storage: [{name: redirect, options: {baseurl: \"https://$CDN/\"}}]}"
    mkdir -p "$storage"
    nginx_config "$(cdn_server "$storage")" >"$WORK/cdn.conf"
    start cdn nginx -c "$WORK/cdn.conf"
    started "$STARTED" 30 upstream_curl "https://$CDN/"
    : >"$WORK/cdn-access.log"
}

# cdn_server STORAGE
cdn_server() {
    cat <<END
    server {
        listen $CDN ssl;
        absolute_redirect off;
        access_log "$WORK/cdn-access.log" short;
        if (\$foreign != "::") { return 400; }
        location /docker/ { return 307 "/signed\$uri?$SIGNATURE"; }
        location /signed/ {
            if (\$args != "$SIGNATURE") { return 403; }
            alias "$1/";
        }
    }
END
}

SIGNATURE='X-Amz-Signature=ab%2Fc%2B~%20d&X-Amz-Credential=k%2f1&empty'

# nginx_config SERVERS
nginx_config() {
    mkdir -p "$WORK/nginx"
    cat <<END
daemon off;
user root;
worker_processes 1;
pid "$WORK/nginx/pid";
error_log stderr;
events {}
http {
    client_body_temp_path "$WORK/nginx/body";
    proxy_temp_path "$WORK/nginx/proxy";
    fastcgi_temp_path "$WORK/nginx/fastcgi";
    uwsgi_temp_path "$WORK/nginx/uwsgi";
    scgi_temp_path "$WORK/nginx/scgi";
    client_max_body_size 0;
    ssl_certificate "$UPSTREAM_CERTIFICATE";
    ssl_certificate_key "$UPSTREAM_KEY";
    map \$http_authorization \$authorization { "" ""; default "authorization"; }
    map \$http_cookie \$cookie { "" ""; default "cookie"; }
    map \$arg_ns \$namespace { "" ""; default "ns"; }
    map "\$authorization:\$cookie:\$namespace" \$foreign { default "\$authorization:\$cookie:\$namespace"; }
    log_format short '\$status \$request_method \$uri range="\$http_range" foreign="\$foreign"';
    access_log off;
$1
}
END
}

# The registry and its token server as one origin, on FRONT, as many registries are. Reading a tag of `limited/` is refused
# there as Docker Hub does. On EXPIRED the same with a certificate that has expired.
start_front() {
    FRONT=127.0.0.1:$(free_port)
    EXPIRED=127.0.0.1:$(free_port)
    REGISTRY=127.0.0.1:$(free_port)
    start_token_server
    token_registry_config "https://$FRONT/token" >"$WORK/registry.yml"
    serve_registry docker-registry
    expired_certificate "$WORK/expired"
    nginx_config "$(front_server "$FRONT" '') $(front_server "$EXPIRED" "$(expired_lines)")" >"$WORK/front.conf"
    start front nginx -c "$WORK/front.conf"
    started "$STARTED" 30 upstream_curl "https://$FRONT/v2/"
}

expired_lines() { echo "ssl_certificate \"$WORK/expired/server.crt\"; ssl_certificate_key \"$UPSTREAM_KEY\";"; }

# front_server ADDRESS LINES
front_server() {
    cat <<END
    server {
        listen $1 ssl;
        $2
        proxy_http_version 1.1;
        proxy_set_header Host \$http_host;
        proxy_set_header X-Forwarded-Proto https;
        proxy_request_buffering off;
        add_header RateLimit-Limit "100;w=21600" always;
        add_header RateLimit-Remaining "42;w=21600" always;
        location = /token { proxy_pass https://$TOKENS; }
        location ~ ^/v2/shop/limited/manifests/ {
            default_type application/json;
            add_header Retry-After 900 always;
            add_header RateLimit-Limit "100;w=21600" always;
            add_header RateLimit-Remaining "0;w=21600" always;
            return 429 '{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}';
        }
        location / { proxy_pass https://$REGISTRY; }
    }
END
}

# expired_certificate DIR: DIR/server.crt, signed by the upstreams' CA, of January 2020.
expired_certificate() {
    local dir=$1
    mkdir -p "$dir"
    : >"$dir/index"
    cat >"$dir/ca.conf" <<END
[ca]
default_ca = own
[own]
database = $dir/index
new_certs_dir = $dir
default_md = sha256
policy = any
rand_serial = yes
copy_extensions = copy
[any]
commonName = supplied
END
    openssl req -new -key "$UPSTREAM_KEY" -subj /CN=127.0.0.1 -addext 'subjectAltName=IP:127.0.0.1,DNS:localhost' \
        -out "$dir/server.csr" 2>"$WORK/openssl.log"
    openssl ca -batch -config "$dir/ca.conf" -cert "$UPSTREAM_CA" -keyfile "$WORK/upstream/ca.key" -in "$dir/server.csr" \
        -out "$dir/server.crt" -notext -startdate 20200101000000Z -enddate 20200201000000Z 2>>"$WORK/openssl.log"
}

# Between the clients, who know it as HOST, and the gateway, which is moved to GATED: the capture is in CAPTURE.
start_tap() {
    GATED=$HOST
    HOST=127.0.0.1:$(free_port)
    CAPTURE=$WORK/capture
    start tap python3 "$SUPPORT/tap.py" "$HOST" "$GATED" "$CERTIFICATE" "$KEY" "$CA" "$CAPTURE"
    started "$STARTED" 30 answers
}

# credentials LINES...: what an upstream's table gets besides: its CA, where it may ask for tokens, and [upstream.credentials].
credentials() {
    printf '%s\n' "ca = \"$UPSTREAM_CA\"" ${TOKENS:+"realm_hosts = [\"$TOKENS\"]"} '[upstream.credentials]' "$@"
}

robot() { credentials 'username = "robot"' "password = \"$ROBOT_PASSWORD\""; }

# holds_no_secret FILE: no token, and no password in any form that HTTP has.
holds_no_secret() {
    local word
    [ -s "$1" ] || { echo "$1 is empty: nothing was looked at"; return 1; }
    for word in "$TOKEN" "$ROBOT_PASSWORD" "$ALICE_PASSWORD" "$BOB_PASSWORD" \
        "$(basic "robot:$ROBOT_PASSWORD")" "$(basic "alice:$ALICE_PASSWORD")" "$(basic "bob:$BOB_PASSWORD")" "${@:2}"; do
        lacks "$word" "$1" || return 1
    done
}

# basic NAME:PASSWORD: as the header has it, without the padding; a regular expression.
basic() { printf %s "$1" | base64 -w0 | tr -d = | sed 's/+/\\+/g'; }

# lacks WORDS FILE
lacks() {
    ! grep -aqE -- "$1" "$2" || {
        printf '%s holds %s:\n' "$2" "$1"
        grep -aoE -m 3 -- ".{0,80}($1)" "$2"
        return 1
    }
}
