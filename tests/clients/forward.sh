#!/usr/bin/env bash
# Each client's own account at upstream: the gateway accepts the logins that the upstream accepts.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

gateway_config() {
    server_config
    printf '\n[[access]]\nusers = ["*"]\nrepositories = ["**"]\nactions = ["*"]\n'
    upstream_config registry ""
}

start_token_registry
UPSTREAM_KEYS=$(credentials 'forward = true')
LOG_LEVEL=trace,h2=trace
start_gateway
make_image "$WORK/image" 2
TRUST=$(trust_dir)
ALICE=alice:$ALICE_PASSWORD
BOB=bob:$BOB_PASSWORD
start_dockerd

push_as() { skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$1" "oci:$WORK/image:1" "docker://$HOST/$2:1"; }
inspect_as() { skopeo inspect --cert-dir "$TRUST" --creds "$1" "docker://$HOST/$2:1"; }
docker_login() { docker login --username "$1" --password-stdin "$HOST" <<<"$2"; }
status_as() { gateway_curl -u "$1" -o /dev/null -w '%{http_code}' "$2"; }

docker_pulls() {
    docker_login alice "$ALICE_PASSWORD"
    docker pull "$HOST/alice/web:1"
    docker logout "$HOST"
}

skopeo_logs_in() { skopeo login --cert-dir "$TRUST" -u "$1" --password-stdin "$HOST" <<<"$2"; }

# In either order, and repeatedly: bob gets nothing by alice's account.
accounts_share_nothing() {
    for _ in 1 2 3; do
        inspect_as "$ALICE" alice/web
        refused 'unauthorized|denied|not found|unknown' inspect_as "$BOB" alice/web
        inspect_as "$BOB" bob/web
        refused 'unauthorized|denied|not found|unknown' inspect_as "$ALICE" bob/web
    done
}

no_user_uses_anothers_password() {
    same 401 "$(status_as "alice:$BOB_PASSWORD" /v2/alice/web/tags/list)"
    same 200 "$(status_as "$ALICE" /v2/alice/web/tags/list)"
    same 401 "$(status_as "alice:$BOB_PASSWORD" /v2/alice/web/tags/list)"
}

# A name in htpasswd is judged by htpasswd, and its password is sent to no upstream.
names_in_htpasswd_stay_here() {
    : >"$WORK/tokens.log"
    same 401 "$(status_as "$USER_NAME:wrong" /v2/)"
    same 200 "$(status_as "$USER_NAME:$PASSWORD" /v2/)"
    lacks "account=$USER_NAME" "$WORK/tokens.log"
}

# Everybody would be let in, whatever the password.
an_upstream_that_never_asks_is_refused() {
    [ "$(status_as "$ALICE" /v2/)" != 200 ] && [ "$(status_as "$ALICE" /v2/alice/web/tags/list)" != 200 ]
    grep -aE ' (WARN|ERROR) ' "$WORK/gateway.log" | grep -qi 'challeng'
}

open_upstream() {
    stop "$GATEWAY"
    start_registry
    UPSTREAM_URL=http://$REGISTRY
    gateway_config >"$WORK/dockgate.toml"
    run_gateway
}

check "docker logs in with an account of upstream's" says 'Login Succeeded' docker_login alice "$ALICE_PASSWORD"
check "docker is refused a wrong password" refused 'unauthorized|401' docker_login alice wrong
check "docker is refused an unknown name" refused 'unauthorized|401' docker_login mallory wrong
check "skopeo logs in" says 'Login Succeeded' skopeo_logs_in bob "$BOB_PASSWORD"
check "skopeo is refused a wrong password" refused 'invalid username/password|unauthorized' skopeo_logs_in bob wrong
check "alice pushes" push_as "$ALICE" alice/web
check "bob pushes" push_as "$BOB" bob/web
check "bob may not push to alice's" refused 'unauthorized|denied|not found|unknown' push_as "$BOB" alice/web
check "docker pulls with its own account" docker_pulls
check "two accounts share nothing" accounts_share_nothing
check "a right password lets no other user in" no_user_uses_anothers_password
check "upstream has seen both by name" same "$(printf 'alice\nbob')" "$(registry_users)"
check "names in htpasswd are not forwarded" names_in_htpasswd_stay_here
check "the log at trace level holds no password and no token" holds_no_secret "$WORK/gateway.log"
open_upstream
check "an upstream that never asks for a password is refused" an_upstream_that_never_asks_is_refused

done_checking
