#!/usr/bin/env bash
# Three gateways behind nginx, haproxy and Envoy, with the files of deploy/replicas: one download for all, uploads at one
# and anywhere, and what happens when one dies.
source "$(dirname "$0")/lib.sh"

BALANCERS=(nginx haproxy envoy)
declare -A REPLICAS=()
SECRET=$("$DOCKGATE" secret)

# replica NUMBER: starts a gateway that trusts the balancers on this machine.
replica() {
    local address admin
    address=127.0.0.1:$(free_port)
    admin=127.0.0.1:$(free_port)
    cat >"$WORK/$1.toml" <<END
[server]
address = "$address"
external_url = "https://$BALANCED"
secret = "$SECRET"
trusted_proxies = ["127.0.0.1"]

[admin]
address = "$admin"

[auth.htpasswd]
path = "htpasswd"

[[upstream]]
name = "registry"
url = "http://$REGISTRY"
prefix = ""
read_only = false
[upstream.cache]

[cache]
path = "$WORK/cache-$1"
max_size = "1GiB"
min_free = "0%"
END
    start "replica-$1" "$DOCKGATE" serve --config "$WORK/$1.toml"
    REPLICAS[$1]=$STARTED
    ADDRESS[$1]=$address
    ADMINS[$1]=$admin
    started "$STARTED" 30 curl -fsS -o /dev/null "http://$admin/readyz"
}

declare -A ADDRESS=() ADMINS=()

# What the files say of three addresses, in place of those of the page.
with_replicas() {
    local number script=
    for number in 1 2 3; do
        script+="s|10.0.1.$number:5000|${ADDRESS[$number]}|;"
        script+="s|10.0.1.$number, port_value: 5000|127.0.0.1, port_value: ${ADDRESS[$number]##*:}|;"
    done
    sed "$script" "$1"
}

start_nginx() {
    with_replicas "$ROOT/deploy/replicas/nginx.conf" |
        sed "s|/etc/nginx/certs|$WORK/certs|; s|listen 443|listen $BALANCED|; s|http2 on;||" >"$WORK/nginx.conf"
    start nginx nginx -p "$WORK" -c "$WORK/nginx.conf" -g "daemon off; pid $WORK/nginx.pid; error_log stderr;"
}

start_haproxy() {
    cat "$CERTIFICATE" "$KEY" >"$WORK/certs/domain.pem"
    with_replicas "$ROOT/deploy/replicas/haproxy.cfg" |
        sed "s|/etc/haproxy/certs|$WORK/certs|; s|bind :443|bind $BALANCED|; s|log global||; s|maxconn 20000|maxconn 1000|" >"$WORK/haproxy.cfg"
    start haproxy haproxy -db -f "$WORK/haproxy.cfg"
}

start_envoy() {
    with_replicas "$ROOT/deploy/replicas/envoy.yaml" |
        sed -E "s|/etc/envoy/certs|$WORK/certs|; s|0.0.0.0, port_value: 443|127.0.0.1, port_value: ${BALANCED##*:}|; s|registry.example.com|$BALANCED|" >"$WORK/envoy.yaml"
    start envoy envoy --disable-hot-restart --concurrency 2 --log-level warn -c "$WORK/envoy.yaml"
}

balanced() { curl -sS --cacert "$CA" -u "$USER_NAME:$PASSWORD" --max-time 60 "${@:1:$#-1}" "https://$BALANCED${*: -1}"; }
is_up() { [ "$(balanced -o /dev/null -w '%{http_code}' /v2/)" = 200 ]; }

# How often the registry has sent a blob, by its own log.
sent() { grep -c "GET /v2/shop/web/blobs/$1" "$WORK/registry.log" || true; }

one_download_serves_all() {
    local digest before
    for digest in $(jq -r '.layers[].digest' "$WORK/manifest.json"); do
        before=$(sent "$digest")
        for _ in $(seq 6); do
            same "$digest" "sha256:$(balanced "/v2/shop/web/blobs/$digest" | sha256sum | cut -d' ' -f1)"
        done
        [ $(($(sent "$digest") - before)) -le 1 ]
    done
}

# Each part goes to another replica, around the balancer.
an_upload_goes_on_anywhere() {
    local location number
    location=$(upload 1 -X POST /v2/shop/parts/blobs/uploads/)
    for number in 2 3; do
        location=$(upload $number -X PATCH -H 'Content-Type: application/octet-stream' --data-binary "part $number." "$location")
    done
    digest=sha256:$(printf 'part 2.part 3.' | sha256sum | cut -d' ' -f1)
    upload 1 -X PUT "$location?digest=$digest" >/dev/null
    same 'part 2.part 3.' "$(balanced "/v2/shop/parts/blobs/$digest")"
}

# upload NUMBER ARGUMENTS... PATH: asks one replica, and prints the path of the next request.
upload() {
    location_of curl -sS -u "$USER_NAME:$PASSWORD" -H "Host: $BALANCED" "${@:2:$#-2}" "http://${ADDRESS[$1]}${*: -1}"
}

# The end of an upload names the digest: a balancer that hashes by it here would send the end elsewhere than the parts.
an_upload_comes_to_one() {
    local number replicas path location content digest
    for number in 1 2 3 4 5 6; do
        content="upload $number"
        digest=sha256:$(printf '%s' "$content" | sha256sum | cut -d' ' -f1)
        path=/v2/shop/whole-$number/blobs/uploads/
        location=$(location_of balanced -X POST -d '' "$path")
        location=$(location_of balanced -X PATCH -H 'Content-Type: application/octet-stream' --data-binary "$content" "$location")
        balanced -f -X PUT "$location?digest=$digest"
        within 5 grep -q "finish_upload 201 repository=shop/whole-$number " "$WORK"/replica-*.log
        replicas=$(grep -l "repository=shop/whole-$number " "$WORK"/replica-*.log | wc -l)
        same 1 "$replicas"
    done
}

# location_of COMMAND... PATH: the path of the Location that is answered.
location_of() {
    "${@:1:$#-1}" -f -D - -o /dev/null "${*: -1}" | tr -d '\r' | sed -n 's|^[Ll]ocation: \(https\{0,1\}://[^/]*\)\{0,1\}||p'
}

clients_go_on_when_one_dies() {
    local number=$1 digest code
    kill -KILL "${REPLICAS[$number]}"
    # Health checks take two seconds; until then one request may fail.
    sleep 6
    for digest in $(jq -r '.layers[].digest' "$WORK/manifest.json"); do
        code=$(balanced -o /dev/null -w '%{http_code}' "/v2/shop/web/blobs/$digest")
        same 200 "$code"
    done
    skopeo copy --quiet --dest-cert-dir "$WORK/certs/client" --dest-creds "$USER_NAME:$PASSWORD" \
        "oci:$WORK/image:1" "docker://$BALANCED/shop/after:1"
}

need_program envoy "$ENVOY"
start_registry
make_certificate "$WORK/certs"
make_htpasswd "$WORK/htpasswd"
make_image "$WORK/image" 8
for balancer in "${BALANCERS[@]}"; do
    BALANCED=127.0.0.1:$(free_port)
    rm -rf "$WORK"/cache-*
    for number in 1 2 3; do replica "$number"; done
    "start_$balancer"
    BALANCER=$STARTED
    started "$BALANCER" 20 is_up
    skopeo copy --quiet --dest-cert-dir "$WORK/certs/client" --dest-creds "$USER_NAME:$PASSWORD" \
        "oci:$WORK/image:1" "docker://$REGISTRY/shop/web:1" --dest-tls-verify=false
    balanced -H 'Accept: application/vnd.oci.image.manifest.v1+json' -o "$WORK/manifest.json" /v2/shop/web/manifests/1
    check "$balancer: one download serves all" one_download_serves_all
    check "$balancer: an upload comes to one replica" an_upload_comes_to_one
    check "$balancer: an upload goes on at any replica" an_upload_goes_on_anywhere
    check "$balancer: clients go on when one dies" clients_go_on_when_one_dies 2
    stop "$BALANCER"
    for number in 1 3; do stop "${REPLICAS[$number]}"; done
done

done_checking
