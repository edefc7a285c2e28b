#!/usr/bin/env bash
# The demands of the OCI distribution specification in its four categories (conformance.py), each case a check: the demo's
# registry through the gateway, directly and under a prefix; and docker-registry through the gateway, which has to answer
# as it answers when it is asked directly. OCI_CONFORMANCE names the specification's own suite, compiled
# (`go test -c` in its directory `conformance`): then that is asked as well.
source "$(dirname "$0")/lib.sh"

LOGIN=$USER_NAME:$PASSWORD

# ask RESULTS URL REPOSITORY OPTIONS...: RESULTS.json says what came of each case.
ask() { SSL_CERT_FILE=${CA:-} python3 "$CLIENTS/conformance.py" "$2" "$3" "$3-other" "${@:4}" >"$WORK/$1.json"; }
cases() { jq -r 'keys_unsorted[]' "$WORK/$1.json"; }
result() { jq -r --arg name "$2" '.[$name]' "$WORK/$1.json"; }
verdict() { [ "$(result "$1" "$2")" = passed ] && echo passed || echo failed; }

as_good_as_directly() {
    echo "directly:            $(result direct "$1")"
    echo "through the gateway: $(result through "$1")"
    # An answer of the registry's that breaks off may become whole on its way.
    [ "$(verdict through "$1")" = passed ] || same "$(verdict direct "$1")" "$(verdict through "$1")"
}

check_all_pass() {
    local name
    check "conformance.py ran ($2)" ask "$1" "${@:3}"
    while IFS= read -r name; do
        check "$2, $name" same passed "$(result "$1" "$name")"
    done < <(cases "$1")
}

check_same() {
    local name
    check "conformance.py ran (docker-registry)" ask direct "http://$REGISTRY" suite/direct
    check "conformance.py ran (docker-registry behind the gateway)" ask through "https://$HOST" suite/through --login "$LOGIN"
    while IFS= read -r name; do
        check "docker-registry the same, $name" as_good_as_directly "$name"
    done < <(cases direct)
}

# The specification's own suite; URL, REPOSITORY and what is written to.
own_suite() {
    mkdir -p "$WORK/$3"
    (cd "$(dirname "$OCI_CONFORMANCE")" && env OCI_ROOT_URL="$1" OCI_NAMESPACE="$2" OCI_CROSSMOUNT_NAMESPACE="$2-other" \
        OCI_USERNAME="$USER_NAME" OCI_PASSWORD="$PASSWORD" OCI_TEST_PULL=1 OCI_TEST_PUSH=1 OCI_TEST_CONTENT_DISCOVERY=1 \
        OCI_TEST_CONTENT_MANAGEMENT=1 OCI_HIDE_SKIPPED_WORKFLOWS=1 OCI_REPORT_DIR="$WORK/$3" "$OCI_CONFORMANCE")
}

# name<TAB>status of each case in a junit.xml.
own_results() {
    python3 -c 'import sys, xml.etree.ElementTree as tree
for case in tree.parse(sys.argv[1]).iter("testcase"):
    bad = case.find("failure") is not None or case.find("error") is not None
    skipped = case.find("skipped") is not None
    print(case.get("name"), "failed" if bad else "skipped" if skipped else "passed", sep="\t")' "$WORK/$1/junit.xml"
}

own_suite_the_same() {
    own_suite "http://$REGISTRY" own/direct own-direct || true
    own_suite "https://$HOST" own/through own-through || true
    [ -n "$(own_results own-direct)" ]
    # As above: only what fails directly may come out otherwise, and then well.
    local worse
    worse=$(diff <(own_results own-direct) <(own_results own-through) |
        grep -E $'^< .*\t(passed|skipped)$|^> .*\t(failed|skipped)$' || true)
    echo "$worse"
    [ -z "$worse" ]
}

start_demo
demo_ca
check_all_pass demo "demo" "https://$HOST" suite/demo --login "$LOGIN"
[ -z "${OCI_CONFORMANCE:-}" ] || check "the specification's suite, demo" own_suite "https://$HOST" own/demo own-demo

check "the demo says where its own registry is" demo_upstream
demo_upstream || true
start_gateway
check_all_pass prefix "prefix" "https://$HOST" team/suite --login "$LOGIN"
[ -z "${OCI_CONFORMANCE:-}" ] || check "the specification's suite, prefix" own_suite "https://$HOST" team/own own-prefix

stop "$GATEWAY"
unset UPSTREAM
start_registry
start_gateway
check_same
[ -z "${OCI_CONFORMANCE:-}" ] || check "the specification's suite, docker-registry the same" own_suite_the_same

done_checking
