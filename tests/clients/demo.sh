#!/usr/bin/env bash
# `dockgate demo`, and the commands that it prints, run as they are.
source "$(dirname "$0")/lib.sh"

cd "$WORK" || exit
start_demo
DEMO_PID=$STARTED
demo_ca
start_dockerd

# The indented lines that begin with a client's name; a backslash at the end goes on in the next line.
printed_commands() {
    sed -e ':join' -e '/\\$/{N;s/\\\n[[:space:]]*//;b join' -e '}' "$WORK/demo.log" | sed -nE 's/^  ((docker|skopeo|curl) .*)/\1/p'
}

names_every_client() {
    local client
    for client in docker skopeo curl; do grep -q "^$client " "$WORK/commands"; done
}

pulled_image_is_there() { docker image ls --format '{{.Repository}}' | grep -q "^$HOST/"; }

printed_commands >"$WORK/commands"
check "it prints commands for docker, skopeo and curl" names_every_client
while IFS= read -r command; do
    check "it prints: $command" bash -euc "$command" </dev/null
done <"$WORK/commands"
check "docker has an image of the demo's" pulled_image_is_there

kill -INT "$DEMO_PID"
within 10 ended "$DEMO_PID" || true
check "Ctrl-C ends it" ended "$DEMO_PID"
EXITED=0 && wait "$DEMO_PID" || EXITED=$?
check "and it exits 0" same 0 "$EXITED"

done_checking
