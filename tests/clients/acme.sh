#!/usr/bin/env bash
# Automatic certificates by pebble, the test server of Let's Encrypt: issued, renewed while clients go on, and an outage.
# Certificates live for LIFE seconds, so that they are renewed at two thirds of it. pebble refuses a twentieth of all nonces.
source "$(dirname "$0")/lib.sh"

PEBBLE_MODULE=github.com/letsencrypt/pebble/v2/cmd
PEBBLE_VERSION=v2.10.3
DOMAIN=registry.example.com
LIFE=60

need_tool pebble "$PEBBLE_MODULE/pebble@$PEBBLE_VERSION"
need_tool pebble-challtestsrv "$PEBBLE_MODULE/pebble-challtestsrv@$PEBBLE_VERSION"

PORT=$(free_port)
ADMIN=127.0.0.1:$(free_port)
DIRECTORY_HOST=127.0.0.1:$(free_port)
MANAGEMENT=127.0.0.1:$(free_port)
DNS=127.0.0.1:$(free_port)
DNS_MANAGEMENT=127.0.0.1:$(free_port)
ROOT_CA=$WORK/root.pem
FOLDER=$WORK/acme

# The names of all hosts lead to 127.0.0.1.
start_dns() {
    start dns pebble-challtestsrv -dnsserver "$DNS" -management "$DNS_MANAGEMENT" -defaultIPv4 127.0.0.1 -defaultIPv6 '' \
        -http01 '' -https01 '' -tlsalpn01 '' -doh ''
    started "$STARTED" 30 curl -s -o /dev/null "http://$DNS_MANAGEMENT/"
}

pebble_config() {
    jq -n --arg address "$DIRECTORY_HOST" --arg management "$MANAGEMENT" --arg certificate "$CERTIFICATE" --arg key "$KEY" \
        --argjson port "$PORT" --argjson life "$LIFE" '{pebble: {
            listenAddress: $address, managementListenAddress: $management, certificate: $certificate, privateKey: $key,
            httpPort: 1, tlsPort: $port, ocspResponderURL: "", externalAccountBindingRequired: false,
            retryAfter: {authz: 1, order: 1},
            profiles: {default: {description: "short", validityPeriod: $life}}}}'
}

# It forgets all accounts when it ends, and has another root each time.
start_pebble() {
    start pebble env PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=5 PEBBLE_AUTHZREUSE=0 \
        pebble -config "$WORK/pebble.json" -dnsserver "$DNS" -strict
    PEBBLE=$STARTED
    started "$PEBBLE" 10 curl -s -o /dev/null --cacert "$CA" "https://$DIRECTORY_HOST/dir"
    curl -fsS --cacert "$CA" -o "$ROOT_CA" "https://$MANAGEMENT/roots/0"
}

gateway_config_with_acme() {
    cat <<END
[server]
address = "127.0.0.1:$PORT"

[server.tls.acme]
domains = ["$DOMAIN", "mirror.example.com"]
email = "ops@example.com"
directory = "https://$DIRECTORY_HOST/dir"
path = "acme"
ca = "$CA"

[admin]
address = "$ADMIN"

[auth.htpasswd]
path = "htpasswd"

[[upstream]]
url = "http://$REGISTRY"
prefix = ""
END
}

status_at() {
    curl -s -o /dev/null -w '%{http_code}' --max-time 5 --cacert "$ROOT_CA" --resolve "$1:$PORT:127.0.0.1" \
        -u "$USER_NAME:$PASSWORD" "https://$1:$PORT/v2/"
}
trusted() { [ "$(status_at "$DOMAIN")" = 200 ]; }

serial() {
    openssl s_client -connect "127.0.0.1:$PORT" -servername "$DOMAIN" </dev/null 2>/dev/null | openssl x509 -noout -serial
}
has_another_serial() { [ "$(serial)" != "$1" ]; }

metric() { curl -fsS "http://$ADMIN/metrics" | sed -n "s/^$1 //p"; }
problems() { curl -fsS "http://$ADMIN/readyz" | jq -r '.problems[]'; }
has_problem() { problems | grep -q "$1"; }
has_no_problem() { [ -z "$(problems)" ]; }

it_is_issued() {
    trusted
    same 200 "$(status_at mirror.example.com)"
    same 1 "$(metric 'dockgate_acme_orders_total{outcome="issued"}')"
    local left=$(($(metric dockgate_acme_certificate_not_after_timestamp_seconds) - $(date +%s)))
    [ $left -gt 0 ] && [ $left -le $LIFE ]
    has_no_problem
}

the_files_are_private() {
    same 700 "$(stat -c %a "$FOLDER")"
    [ -z "$(find "$FOLDER" -type f ! -perm 600)" ]
    [ -s "$FOLDER/account.json" ] && [ -s "$FOLDER/certificate.pem" ]
}

a_wrong_protocol_gets_no_challenge() {
    refused 'alert' openssl s_client -connect "127.0.0.1:$PORT" -servername "$DOMAIN" -alpn acme-tls/1
}

# Pulls until the file HAMMER goes, each on a connection of its own; writes down what was not 200.
hammer() {
    local status
    while [ -e "$WORK/hammer" ]; do
        status=$(status_at "$DOMAIN") || true
        [ "$status" = 200 ] || echo "$(date +%T) $status" >>"$WORK/hammer.failed"
        echo >>"$WORK/hammer.count"
        sleep 0.1
    done
}

it_is_renewed_while_clients_go_on() {
    local before
    before=$(serial)
    touch "$WORK/hammer"
    hammer &
    local pid=$!
    within $((LIFE + 10)) has_another_serial "$before" || { rm "$WORK/hammer"; wait $pid; return 1; }
    sleep 1
    rm "$WORK/hammer"
    wait $pid
    [ "$(wc -l <"$WORK/hammer.count")" -gt 20 ]
    [ ! -s "$WORK/hammer.failed" ] || { cat "$WORK/hammer.failed"; return 1; }
}

an_outage_is_told_and_the_old_one_serves() {
    local before
    before=$(serial)
    within $LIFE has_problem "^acme: cannot get a certificate for $DOMAIN"
    has_problem 'the one in force is valid until'
    same 1 "$(metric 'dockgate_acme_orders_total{outcome="failed"}')"
    grep -q 'cannot get a certificate from the ACME server' "$WORK/gateway.log"
    same "$before" "$(serial)"
    trusted
}

after_the_outage_it_is_renewed() {
    kill -HUP "$GATEWAY"
    within 20 has_no_problem
    within 20 trusted
}

a_restart_has_ordered_nothing() {
    same "$BEFORE" "$(serial)"
    same 0 "$(metric 'dockgate_acme_orders_total{outcome="issued"}')"
}

run_gateway_with_acme() {
    start gateway "$DOCKGATE" serve --config "$WORK/dockgate.toml"
    GATEWAY=$STARTED
    started "$GATEWAY" 40 trusted
}

the_registry_images_variables_do_the_same() {
    start variables env REGISTRY_HTTP_ADDR="127.0.0.1:$PORT" REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_REALM=Registry \
        REGISTRY_AUTH_HTPASSWD_PATH="$WORK/htpasswd" REGISTRY_PROXY_REMOTEURL="http://$REGISTRY" \
        REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE="$WORK/cachefile" REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL=ops@example.com \
        REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS="[$DOMAIN]" DOCKGATE_ADMIN__ADDRESS="$ADMIN" \
        REGISTRY_HTTP_TLS_LETSENCRYPT_DIRECTORYURL="https://$DIRECTORY_HOST/dir" DOCKGATE_SERVER__TLS__ACME__CA="$CA" \
        "$DOCKGATE" serve
    local pid=$STARTED status=0
    within 30 trusted || status=$?
    stop "$pid"
    return $status
}

start_registry
make_certificate "$WORK/certs"
make_htpasswd "$WORK/htpasswd"
start_dns
pebble_config >"$WORK/pebble.json"
start_pebble
gateway_config_with_acme >"$WORK/dockgate.toml"
run_gateway_with_acme

check "a certificate for both names is issued" it_is_issued
check "account and certificate are for the gateway's user alone" the_files_are_private
check "a client that asks for acme-tls/1 gets none" a_wrong_protocol_gets_no_challenge
BEFORE=$(serial)
stop "$GATEWAY"
# `check` has a shell of its own: what is to go on after it starts here.
run_gateway_with_acme
check "a restart finds the certificate and orders none" a_restart_has_ordered_nothing
check "it is renewed at two thirds of its life while clients go on" it_is_renewed_while_clients_go_on
stop "$PEBBLE"
check "while the server is out the old one serves and the failure is told" an_outage_is_told_and_the_old_one_serves
start_pebble
check "SIGHUP after the outage renews it, with a new account" after_the_outage_it_is_renewed
stop "$GATEWAY"
check "the registry image's variables of Let's Encrypt do the same" the_registry_images_variables_do_the_same

done_checking
