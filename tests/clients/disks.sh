# shellcheck shell=bash disable=SC2034,SC2153,SC2154
# Sourced by the scripts about a cache's disk, after lib.sh: an upstream that can be slow, images, and what the gateway says.

LOGIN=$USER_NAME:$PASSWORD
DISK=$WORK/disk

# REGISTRY is what the gateway asks, at no more than SLOW_RATE bytes a second for a repository in `slow/`.
SLOW_RATE=${SLOW_RATE:-6m}

start_slow_way() {
    UPSTREAM=127.0.0.1:$(free_port)
    mkdir -p "$WORK/nginx"
    slow_way >"$WORK/slow.conf"
    start slow nginx -c "$WORK/slow.conf"
    started "$STARTED" 30 curl -fsS "http://$UPSTREAM/v2/"
}

slow_way() {
    cat <<TEXT
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
    access_log "$WORK/asked.log";
    proxy_max_temp_file_size 0;
    client_max_body_size 0;
    server {
        listen $UPSTREAM;
        location / { proxy_set_header Host \$http_host; proxy_pass http://$REGISTRY; }
        location ~ ^/v2/slow/.*/blobs/ { limit_rate $SLOW_RATE; proxy_pass http://$REGISTRY; }
    }
}
TEXT
}

put_image() { skopeo copy --quiet --dest-tls-verify=false "oci:$1:1" "docker://$REGISTRY/$2:1"; }

# pulls NAME LAYOUT: the same bytes, whatever the cache makes of it.
pulls() {
    rm -rf "$WORK/back"
    skopeo copy --quiet --src-cert-dir "$TRUST" --src-creds "$LOGIN" "docker://$HOST/$1:1" "oci:$WORK/back:1"
    diff -r "$2/blobs" "$WORK/back/blobs"
}

layer() { jq -r '.layers[-1].digest' "$1/blobs/sha256/$(manifest_digest "$1" | cut -d: -f2)"; }

# blob NAME LAYOUT OPTIONS...: its largest layer to stdout.
blob() { gateway_curl -u "$LOGIN" "${@:3}" "/v2/$1/blobs/$(layer "$2")"; }

problems() { curl -sS "http://$ADMIN/readyz" | jq -r '.problems[]' | grep '^cache' || true; }
readyz_names() { has "$1" "$(problems)"; }
is_not_degraded() { problems; [ -z "$(problems)" ]; }

nothing_is_left_over() {
    local found
    found=$(find "$DISK/cache/partial" -type f -name '*.part' -size +64k 2>/dev/null)
    echo "$found"
    [ -z "$found" ]
}
