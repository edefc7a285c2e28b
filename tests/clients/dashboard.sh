#!/usr/bin/env bash
# The dashboard in a real browser: its sections and charts, live updates, hostile names, the keyboard, wide and narrow, light
# and dark. The screenshots are left in SCREENSHOTS, if that is set. And /metrics, by promtool.
source "$(dirname "$0")/lib.sh"

LOGIN=$USER_NAME:$PASSWORD

gateway_config() {
    server_config
    cat <<TOML

[[upstream]]
name = "docker.io"
url = "http://$REGISTRY"
prefix = "docker.io"

[upstream.cache]
tag_ttl = "1h"

[cache]
path = "cache"
min_free = "0%"
TOML
}

put_image() { skopeo copy --quiet --all --dest-tls-verify=false "oci:$1:1" "docker://$REGISTRY/$2"; }

pulls() {
    rm -rf "$WORK/back"
    skopeo copy --quiet --src-cert-dir "$TRUST" --src-creds "$LOGIN" "docker://$HOST/docker.io/$1" "oci:$WORK/back:1"
}

is_right_in_a_browser() {
    mkdir -p "${SCREENSHOTS:-$WORK/screenshots}"
    python3 "$CLIENTS/dashboard.py" "http://$ADMIN/" "${SCREENSHOTS:-$WORK/screenshots}" \
        curl -sS --cacert "$CA" -u '<img src=x>:wrong' "https://$HOST/v2/"
}

finds() { says "$1" curl -fsS -G --data-urlencode "q=$2" "http://$ADMIN/"; }

are_clean_metrics() {
    curl -fsS "http://$ADMIN/metrics" >"$WORK/metrics"
    promtool check metrics <"$WORK/metrics"
}

make_image "$WORK/image" 8
start_registry
put_image "$WORK/image" shop/web:1
start_gateway
TRUST=$(trust_dir)

check "a pull" pulls shop/web:1
check "the dashboard in a browser" is_right_in_a_browser
check "a search by name" finds "$USER_NAME" web
check "a search by digest" finds 'shop/web' "$(manifest_digest "$WORK/image")"
check "promtool about the metrics" are_clean_metrics
done_checking
