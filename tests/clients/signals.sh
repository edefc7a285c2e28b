#!/usr/bin/env bash
# Ending and reloading: SIGTERM drains, a second one does not wait, SIGHUP and changed files are read anew.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
head -c 64000000 /dev/urandom >"$WORK/blob"
DIGEST=sha256:$(sha256sum <"$WORK/blob" | cut -d' ' -f1)
LOGIN=$USER_NAME:$PASSWORD

# Straight into the registry.
put_blob() {
    local location
    location=$(curl -sS -D - -o /dev/null -X POST -d '' "http://$REGISTRY/v2/shop/web/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' -T "$WORK/blob" "$location&digest=$DIGEST"
}

slow_download() {
    rm -f "$WORK/download"
    gateway_curl -f -u "$LOGIN" --limit-rate "$1" -o "$WORK/download" "/v2/shop/web/blobs/$DIGEST" 2>>"$WORK/curl.log" &
    DOWNLOAD=$!
    within 5 test -s "$WORK/download"
}

status_of() { curl -s -o /dev/null -w '%{http_code}' --max-time 5 --cacert "$CA" "$@" "https://$HOST/v2/" || true; }
user_gets() { [ "$(status_of -u "$1")" = "$2" ]; }

served_certificate() {
    openssl s_client -connect "$HOST" -CAfile "$CA" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint
}

changed_certificate() { [ "$(served_certificate)" != "$1" ]; }

hangup_reads_a_new_user() {
    htpasswd -Bbn second "$PASSWORD" >>"$WORK/htpasswd"
    kill -HUP "$GATEWAY"
    within 5 user_gets "second:$PASSWORD" 200
    user_gets "$LOGIN" 200
}

a_removed_user_is_gone() {
    make_htpasswd "$WORK/htpasswd"
    within 10 user_gets "second:$PASSWORD" 401
    user_gets "$LOGIN" 200
}

hangup_reads_a_new_certificate() {
    local before
    before=$(served_certificate)
    renew_certificate
    kill -HUP "$GATEWAY"
    within 5 changed_certificate "$before"
    user_gets "$LOGIN" 200
}

a_new_certificate_is_noticed() {
    local before
    before=$(served_certificate)
    renew_certificate
    within 10 changed_certificate "$before"
}

# By the same CA.
renew_certificate() { make_certificate "$WORK/certs"; }

a_broken_file_changes_nothing() {
    local before
    before=$(served_certificate)
    cp "$CERTIFICATE" "$WORK/good.crt"
    echo broken >"$CERTIFICATE"
    kill -HUP "$GATEWAY"
    sleep 3
    same "$before" "$(served_certificate)"
    user_gets "$LOGIN" 200
    cp "$WORK/good.crt" "$CERTIFICATE"
}

no_longer_accepts() { [ "$(status_of)" = 000 ]; }

# For `wait`, these two run in the script's own shell, and their results are checked afterwards.
drain() {
    slow_download 16M || true
    kill -TERM "$GATEWAY"
    within 3 no_longer_accepts && REFUSES=yes || REFUSES=no
    DOWNLOADED=0 && wait "$DOWNLOAD" || DOWNLOADED=$?
    EXITED=0 && wait "$GATEWAY" || EXITED=$?
}

cut_short() {
    run_gateway
    slow_download 1M || true
    kill -TERM "$GATEWAY"
    sleep 0.5
    ended "$GATEWAY" && DRAINS=no || DRAINS=yes
    local before=$SECONDS
    kill -TERM "$GATEWAY" || true
    within 10 ended "$GATEWAY" || kill -9 "$GATEWAY"
    TOOK=$((SECONDS - before))
    wait "$GATEWAY" || true
    kill "$DOWNLOAD" 2>/dev/null || true
    wait "$DOWNLOAD" 2>/dev/null || true
}

idle_stop() {
    run_gateway
    local before=$SECONDS
    kill -TERM "$GATEWAY"
    within 20 ended "$GATEWAY" || true
    TOOK=$((SECONDS - before))
    EXITED=0 && wait "$GATEWAY" || EXITED=$?
}

put_blob
check "SIGHUP reads a new user" hangup_reads_a_new_user
check "a removed user is gone without a signal" a_removed_user_is_gone
check "SIGHUP reads a new certificate" hangup_reads_a_new_certificate
check "a new certificate is noticed without a signal" a_new_certificate_is_noticed
check "a broken certificate leaves the old in force" a_broken_file_changes_nothing
drain
check "SIGTERM stops accepting" same yes "$REFUSES"
check "SIGTERM lets a download finish" same 0 "$DOWNLOADED"
check "the download is whole" cmp "$WORK/blob" "$WORK/download"
check "SIGTERM exits 0 after draining" same 0 "$EXITED"
cut_short
check "SIGTERM waits for a slow download" same yes "$DRAINS"
check "a second SIGTERM ends at once" test "$TOOK" -le 2
idle_stop
check "SIGTERM with nothing under way ends at once" test "$TOOK" -le 2
check "and exits 0" same 0 "$EXITED"

done_checking
