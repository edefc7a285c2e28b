#!/usr/bin/env bash
# `dockgate probe`: the walk through a challenge, and what it says of what is wrong.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

start_front
make_image "$WORK/image" 2
skopeo copy --quiet --dest-tls-verify=false --dest-creds "robot:$ROBOT_PASSWORD" "oci:$WORK/image:1" "docker://$FRONT/shop/web:1"
# The same registry with a realm at another origin.
SAME_ORIGIN=$REGISTRY
REGISTRY=127.0.0.1:$(free_port)
token_registry_config "https://$TOKENS/token" >"$WORK/registry.yml"
start elsewhere env -u REGISTRY_AUTH_FILE docker-registry serve "$WORK/registry.yml"
started "$STARTED" 30 registry_wants_login
ELSEWHERE=$REGISTRY
REGISTRY=$SAME_ORIGIN

# as_robot ARGUMENTS...: with the robot's password and the upstreams' CA.
as_robot() { "$DOCKGATE" probe "$@" -u robot --password-stdin --ca "$UPSTREAM_CA" <<<"$ROBOT_PASSWORD"; }
with_password() { "$DOCKGATE" probe "$2" -u robot --password-stdin --ca "$UPSTREAM_CA" <<<"$1"; }
without_ca() { "$DOCKGATE" probe "$1" -u robot --password-stdin <<<"$ROBOT_PASSWORD"; }

shows_every_step() {
    as_robot "$FRONT/shop/web:1" >"$WORK/probe.out"
    local words
    while read -r words; do
        grep -qE -- "$words" "$WORK/probe.out" || { echo "no words like: $words"; cat "$WORK/probe.out"; return 1; }
    done <<END
(GET|HEAD) .*/v2/
401
[Bb]earer
realm.*https://$FRONT/token
service.*$SERVICE
scope.*repository:shop/web:pull
alg.*ES256
iss.*$ISSUER
sub.*robot
aud.*$SERVICE
exp
access
200
[Rr]ate.?[Ll]imit.*42
END
}

probes_anonymously() { "$DOCKGATE" probe "https://$FRONT/v2/" --ca "$UPSTREAM_CA"; }

gives_json() {
    as_robot "$FRONT/shop/web:1" --json >"$WORK/probe.json"
    is_an_object "$WORK/probe.json"
}

# With a fault, too.
gives_json_of_a_fault() {
    ! as_robot "$FRONT/shop/limited:1" --json >"$WORK/fault.json" || return 1
    is_an_object "$WORK/fault.json"
}

is_an_object() { jq -es 'length == 1 and (.[0] | type == "object")' "$1"; }

is_plain_where_there_is_no_terminal() {
    grep -q 401 "$WORK/probe.out"
    lacks $'\x1b' "$WORK/probe.out"
}

# faulty WORDS COMMAND...: exit 1, and the last line names the fault.
faulty() {
    local words=$1 output status=0
    shift
    output=$("$@" 2>&1) || status=$?
    echo "$output"
    echo "$output" >>"$WORK/probe.out"
    [ $status = 1 ] || { echo "exit $status"; return 1; }
    tail -n 1 <<<"$output" | grep -qiE -- "$words" || { echo "the last line has no words like: $words"; return 1; }
}

CLOSED=127.0.0.1:$(free_port)
check "it shows every step" shows_every_step
check "it writes no colours to a file" is_plain_where_there_is_no_terminal
check "it probes a URL without a login" says '401|200' probes_anonymously
check "--json is JSON" gives_json
check "--json is JSON with a fault" gives_json_of_a_fault
check "a name that does not resolve" faulty 'resolve|no such (host|name)' as_robot name.invalid/shop/web:1
check "a port on which no server listens" faulty 'refused' as_robot "$CLOSED/shop/web:1"
check "a certificate of an unknown CA" faulty 'certificate.*(unknown|trust|issuer)|(unknown|trust|issuer).*certificate' without_ca "$FRONT/shop/web:1"
check "a certificate that has expired" faulty 'certificate.*(expired|2020)|expired.*certificate' as_robot "$EXPIRED/shop/web:1"
check "a wrong password" faulty 'password|credentials|refuse' with_password wrong "$FRONT/shop/web:1"
check "a realm elsewhere" faulty "realm.*$TOKENS|$TOKENS.*realm" as_robot "$ELSEWHERE/shop/web:1"
check "no such repository" faulty 'shop/none.*(no such|not there|not found|unknown)|(no such|not there|not found|unknown).*shop/none' as_robot "$FRONT/shop/none:1"
check "a repository that is not for this account" faulty 'secret/web' as_robot "$FRONT/secret/web:1"
check "a rate that is limited" faulty 'limit' as_robot "$FRONT/shop/limited:1"
check "none of it shows a password or a token" holds_no_secret "$WORK/probe.out"
check "nor does the JSON" holds_no_secret "$WORK/probe.json"

# As the gateway would use it.
REGISTRY=$FRONT
UPSTREAM_URL=https://$FRONT
UPSTREAM_KEYS=$(robot)
start_gateway
examines() { "$DOCKGATE" probe --upstream registry "$@" --config "$WORK/dockgate.toml"; }
check "--upstream examines an upstream" says 'challenge|token' examines
check "--upstream --write examines uploads as well" says 'upload|mount' examines --repository shop/web --write

done_checking
