#!/usr/bin/env bash
# Restarts on a passed socket, while a pull runs and a client connects all the time: no request fails. Prints how many there were.
source "$(dirname "$0")/lib.sh"

start_registry
HOST=127.0.0.1:$(free_port)
ADMIN=127.0.0.1:$(free_port)
LOGIN=$USER_NAME:$PASSWORD
make_certificate "$WORK/certs"
make_htpasswd "$WORK/htpasswd"
gateway_config >"$WORK/dockgate.toml"
start service python3 "$ROOT/tests/support/service.py" "$HOST" "$DOCKGATE" serve --config "$WORK/dockgate.toml"
SERVICE=$STARTED
started "$SERVICE" 10 answers

head -c 64000000 /dev/urandom >"$WORK/blob"
DIGEST=sha256:$(sha256sum <"$WORK/blob" | cut -d' ' -f1)

# Straight into the registry.
put_blob() {
    local location
    location=$(curl -sS -D - -o /dev/null -X POST -d '' "http://$REGISTRY/v2/shop/web/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' -T "$WORK/blob" "$location&digest=$DIGEST"
}

starts() { grep -c '^started ' "$WORK/service.log"; }
has_asked() { [ "$(wc -l <"$WORK/hammer.count")" -gt "$1" ]; }
has_started() { [ "$(starts)" = "$1" ]; }

# Connects and asks until the file HAMMER goes; writes down what was not 200.
hammer() {
    local status
    while [ -e "$WORK/hammer" ]; do
        status=$(curl -s -o /dev/null -w '%{http_code}' --max-time 20 --cacert "$CA" -u "$LOGIN" "https://$HOST/v2/") || status="$status, exit $?"
        [ "$status" = 200 ] || echo "$status" >>"$WORK/hammer.failed"
        echo >>"$WORK/hammer.count"
    done
}

# figures WHAT [MORE]: notes how many requests there were, and how many of them failed.
figures() {
    touch "$WORK/hammer.failed"
    echo "  $1: $(wc -l <"$WORK/hammer.count") requests, each on a new connection, $(wc -l <"$WORK/hammer.failed") failed${2:-}" >>"$WORK/figures"
}

# Some five seconds long.
pull() { gateway_curl -f -u "$LOGIN" --limit-rate 12M -o "$WORK/download" "/v2/shop/web/blobs/$DIGEST"; }

a_restart_fails_no_request() {
    local before pulling first second status=0
    before=$(starts)
    rm -f "$WORK/download" "$WORK"/hammer.*
    touch "$WORK/hammer"
    hammer & first=$!
    hammer & second=$!
    pull & pulling=$!
    within 5 test -s "$WORK/download"
    kill -USR1 "$SERVICE"
    wait $pulling || status=$?
    within 20 has_started $((before + 1)) || status=1
    within 60 has_asked 50 || status=1
    rm "$WORK/hammer"
    wait $first $second
    figures "a restart" "; of the pull running through it $(stat -c %s "$WORK/download") of $(stat -c %s "$WORK/blob") bytes came"
    [ ! -s "$WORK/hammer.failed" ] || { cat "$WORK/hammer.failed"; status=1; }
    cmp "$WORK/blob" "$WORK/download" || status=1
    return $status
}

# Nothing to wait for: the listener of the old process closes at once, and the new one starts.
restarts_in_a_row_fail_no_request() {
    local before first status=0 i
    before=$(starts)
    rm -f "$WORK"/hammer.*
    touch "$WORK/hammer"
    hammer & first=$!
    for i in 1 2 3 4 5; do
        kill -USR1 "$SERVICE"
        within 20 has_started $((before + i)) || status=1
        sleep 0.5
    done
    rm "$WORK/hammer"
    wait $first
    figures "five restarts in a row"
    [ ! -s "$WORK/hammer.failed" ] || { cat "$WORK/hammer.failed"; status=1; }
    return $status
}

check "put a blob" put_blob
check "a restart finishes the pull and fails no request" a_restart_fails_no_request
check "restarts in a row fail no request" restarts_in_a_row_fail_no_request
cat "$WORK/figures"

done_checking
