#!/usr/bin/env bash
# Where the credentials for upstream may be: a credential helper, and each of the ways of docker's config.json.
# shellcheck disable=SC2016 # What is in single quotes here are jq's own variables.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

# Not "password", which the log calls the kind of login.
PASSWORD=clients-own-2cV6
export PATH=$WORK/bin:$PATH HELPER_CALLS=$WORK/helper.calls HELPER_ANSWER=$WORK/helper.answer
LOGIN=$USER_NAME:$PASSWORD

# docker-credential-test answers what HELPER_ANSWER holds, and fails where there is none.
make_helper() {
    mkdir -p "$WORK/bin"
    cat >"$WORK/bin/docker-credential-test" <<'END'
#!/bin/sh
url=$(cat)
echo "$1 $url" >>"$HELPER_CALLS"
[ "$1" = get ] && [ -s "$HELPER_ANSWER" ] && exec cat "$HELPER_ANSWER"
echo "credentials not found in native keychain"
exit 1
END
    chmod +x "$WORK/bin/docker-credential-test"
}

# helper_answers NAME SECRET
helper_answers() {
    jq -n --arg url "https://$REGISTRY" --arg name "$1" --arg secret "$2" '{ServerURL: $url, Username: $name, Secret: $secret}' >"$HELPER_ANSWER"
}

push_an_image() {
    skopeo copy --quiet --dest-tls-verify=false --dest-creds "robot:$ROBOT_PASSWORD" "oci:$WORK/image:1" "docker://$REGISTRY/shop/web:1"
}

status_of() { gateway_curl -u "$LOGIN" -o /dev/null -w '%{http_code}' "$@"; }

gets() { [ "$(status_of /v2/shop/web/tags/list)" = "$1" ]; }

# gateway_with LINES...: a new gateway, with these in [upstream.credentials].
gateway_with() {
    [ -z "${GATEWAY:-}" ] || stop "$GATEWAY"
    : >"$WORK/tokens.log"
    : >"$HELPER_CALLS"
    UPSTREAM_KEYS=$(credentials "$@")
    gateway_config >"$WORK/dockgate.toml"
    run_gateway
}

# config_with JSON [FILTER-ARGUMENT...]: the same with docker's config.json.
config_with() {
    jq -n --arg registry "$REGISTRY" "$@" >"$WORK/config.json"
    gateway_with 'docker_config = "config.json"'
}

reads_as_robot() {
    gets 200
    same robot "$(token_accounts)"
}

asks_the_helper_once() {
    for _ in 1 2 3; do same 200 "$(status_of /v2/shop/web/tags/list)"; done
    same 1 "$(wc -l <"$HELPER_CALLS")"
    has "^get .*$REGISTRY" "$(cat "$HELPER_CALLS")"
}

fails_without_asking_the_client() {
    same 502 "$(status_of /v2/shop/web/tags/list)"
    has "$1" "$(cat "$WORK/gateway.log")"
}

refreshes_by_post() {
    reads_as_robot
    has '^POST account=robot' "$(cat "$WORK/tokens.log")"
}

uses_the_token_as_it_is() {
    same 200 "$(status_of /v2/shop/web/tags/list)"
    same 0 "$(token_requests)"
}

follows_a_change() {
    sed -i "s/$(encoded "robot:wrong")/$(encoded "robot:$ROBOT_PASSWORD")/" "$WORK/config.json"
    within 15 gets 200
}

encoded() { printf %s "$1" | base64 -w0; }
refresh_token() { upstream_curl -u "robot:$ROBOT_PASSWORD" "https://$TOKENS/token?service=$SERVICE&offline_token=true" | jq -r .refresh_token; }

make_helper
make_image "$WORK/image" 2
start_token_registry
push_an_image
UPSTREAM_KEYS=$(robot)
start_gateway

helper_answers robot "$ROBOT_PASSWORD"
gateway_with 'helper = "test"'
check "a helper's name and password" reads_as_robot
check "the helper is asked once" asks_the_helper_once
helper_answers '<token>' "$(refresh_token)"
gateway_with 'helper = "test"'
check "a helper's identity token" refreshes_by_post
rm "$HELPER_ANSWER"
gateway_with 'helper = "test"'
check "a helper that has none is not the client's fault" fails_without_asking_the_client 'docker-credential-test|helper'
gateway_with 'helper = "absent"'
check "a helper that is not there is named" fails_without_asking_the_client 'docker-credential-absent|absent'

AUTH=$(encoded "robot:$ROBOT_PASSWORD")
config_with --arg auth "$AUTH" '{auths: {($registry): {auth: $auth}}}'
check "auths of a config.json" reads_as_robot
config_with --arg auth "$AUTH" '{auths: {"https://\($registry)/v1/": {auth: $auth}}}'
check "auths under a URL" reads_as_robot
config_with --arg token "$(refresh_token)" '{auths: {($registry): {auth: "MDAwMDo=", identitytoken: $token}}}'
check "an identity token" refreshes_by_post
config_with --arg token "$(upstream_token repository:shop/web:pull)" '{auths: {($registry): {registrytoken: $token}}}'
check "a registry token" uses_the_token_as_it_is
helper_answers robot "$ROBOT_PASSWORD"
config_with '{credHelpers: {($registry): "test"}, credsStore: "absent"}'
check "credHelpers" reads_as_robot
config_with '{credsStore: "test"}'
check "credsStore" reads_as_robot
config_with '{auths: {"elsewhere.example": {auth: "eDp5"}}}'
check "a config.json without the registry is not the client's fault" fails_without_asking_the_client "$REGISTRY|credentials"
config_with --arg auth "$(encoded robot:wrong)" '{auths: {($registry): {auth: $auth}}}'
check "a wrong password in it is not the client's fault" fails_without_asking_the_client 'credentials|refused'
check "a changed config.json is read anew" follows_a_change
check "no secret is in the log" holds_no_secret "$WORK/gateway.log" "$PASSWORD"

done_checking
