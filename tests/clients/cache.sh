#!/usr/bin/env bash
# One cache between a registry behind token auth and real clients: a dockerd that has logged in, a dockerd that has it as
# its mirror, containerd by hosts.toml, podman by registries.conf and buildah. What the registry is asked is counted.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

# Not "password", which the log calls the kind of login.
PASSWORD=clients-own-2cV6
LOGIN=$USER_NAME:$PASSWORD
TAG_TTL=1h
WEB=shop/web:1
MULTI=shop/multi:1
# Only containerd pulls it: by HEAD of the tag, and then by digest.
LONE=shop/lone:1

# Every request that the registry has got since `: >registry.log`: METHOD PATH STATUS.
asked() { sed -nE 's,.*"(GET|HEAD|PUT|POST|PATCH|DELETE) (/v2/[^ ]*) HTTP/[0-9.]+" ([0-9]{3}) .*,\1 \2 \3,p' "$WORK/registry.log"; }

# The answers with content: a client without a token is refused first.
given() { asked | awk -v method="$1" '$1 == method && $3 ~ /^2|^307/ { print $2 }' | grep -E -- "$2" | sort || true; }

forget_requests() {
    # What is fetched ahead may outlast the client's pull.
    sleep 1
    : >"$WORK/registry.log"
    : >"$WORK/tokens.log"
}

nothing_was_asked() {
    sleep 1
    asked
    cat "$WORK/tokens.log"
    [ -z "$(asked)" ] && [ "$(token_requests)" = 0 ]
}

## The gateway

# Both have the one directory, and call the registry by the name that mirrors are for.
cached_upstream() {
    cat <<TOML
[[upstream]]
name = "docker.io"
url = "$UPSTREAM_URL"
prefix = ""
$(robot)
[upstream.cache]
tag_ttl = "$TAG_TTL"

[cache]
path = "cache"
min_free = "0%"
TOML
}

gateway_config() {
    server_config
    cached_upstream
}

# docker never sends a password to a mirror: this gateway, on MIRROR, is open to everyone.
start_mirror() {
    MIRROR=127.0.0.1:$(free_port)
    mirror_config >"$WORK/mirror.toml"
    start mirror "$DOCKGATE" serve --config "$WORK/mirror.toml"
    MIRROR_PID=$STARTED
    started "$STARTED" 30 curl -fsS --cacert "$CA" "https://$MIRROR/v2/"
}

mirror_config() {
    cat <<TOML
[server]
address = "$MIRROR"

[server.tls]
certificate = "$CERTIFICATE"
key = "$KEY"

[admin]
address = ""

[[access]]
users = ["anonymous"]
repositories = ["**"]
actions = ["pull"]

TOML
    cached_upstream
}

restart_gateways() {
    stop "$GATEWAY"
    stop "$MIRROR_PID"
    sed -i "s/^tag_ttl = .*/tag_ttl = \"$TAG_TTL\"/" "$WORK/dockgate.toml" "$WORK/mirror.toml"
    start gateway "$DOCKGATE" serve --config "$WORK/dockgate.toml"
    GATEWAY=$STARTED
    started "$STARTED" 30 answers
    start mirror "$DOCKGATE" serve --config "$WORK/mirror.toml"
    MIRROR_PID=$STARTED
    started "$STARTED" 30 curl -fsS --cacert "$CA" "https://$MIRROR/v2/"
}

fill_registry() {
    make_image "$WORK/image" 8
    make_image "$WORK/other" 4
    python3 "$CLIENTS/index.py" "$WORK/multi" "amd64=$WORK/image" "arm64=$WORK/other"
    put_image "$WORK/image" "$WEB"
    put_image "$WORK/multi" "$MULTI"
    put_image "$WORK/other" "$LONE"
}

# put_image LAYOUT NAME: into the registry, past the gateways.
put_image() {
    skopeo copy --quiet --all --dest-tls-verify=false --dest-creds "robot:$ROBOT_PASSWORD" "oci:$1:1" "docker://$REGISTRY/$2"
}

# layers LAYOUT: of its only image, a digest a line.
layers() { jq -r '.layers[].digest' "$1/blobs/sha256/$(manifest_digest "$1" | cut -d: -f2)"; }

## Clients

# start_docker NAME JSON: a dockerd with its own data, for `docker_ NAME`.
start_docker() {
    mkdir -p "$WORK/$1"
    jq '. + {features: {"containerd-snapshotter": false}}' <<<"$2" >"$WORK/$1/daemon.json"
    start "$1" dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --host "unix://$SHORT/$1.sock" \
        --data-root "$WORK/$1/data" --exec-root "$SHORT/$1" --pidfile "$WORK/$1/pid" --config-file "$WORK/$1/daemon.json"
    on_exit+=("umount -q '$SHORT/$1'/netns/* 2>/dev/null")
    started "$STARTED" 60 docker_ "$1" version
}

docker_() { docker --host "unix://$SHORT/$1.sock" "${@:2}"; }

docker_pulls() {
    docker_ "$1" image prune --all --force
    docker_ "$1" pull "$2"
    docker_ "$1" image inspect "$2"
}

containerd_pulls() {
    tr_ images ls -q | xargs -r ctr --address "$SOCKET" images rm --sync
    tr_ images pull --snapshotter native --hosts-dir "$WORK/hosts" --user "$LOGIN" "docker.io/$1"
    has sha256 "$(tr_ images ls "name==docker.io/$1")"
}

podman_pulls() {
    pod rmi --all --force
    pod pull --quiet "docker.io/$1"
    pod image inspect "docker.io/$1"
}

bud() { buildah --storage-driver vfs --root "$WORK/built" --runroot "$SHORT/built" "$@"; }

buildah_pulls() {
    local container
    bud rm --all
    bud rmi --all --force
    container=$(bud from --isolation chroot "docker.io/$1")
    bud rm "$container"
}

registries_conf() {
    cat >"$WORK/registries.conf" <<TOML
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "$HOST"
TOML
    export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf
}

start_clients() {
    start_docker docker-login '{}'
    start_docker docker-mirror "{\"registry-mirrors\": [\"https://$MIRROR\"]}"
    start_containerd
    hosts_toml docker.io https://docker.io "https://$HOST"
    registries_conf
    pod login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
    docker_ docker-login login --username "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
}

# Each pulls into an empty store.
every_client_pulls() {
    check "$1: docker" docker_pulls docker-login "$HOST/$2"
    check "$1: docker with a mirror" docker_pulls docker-mirror "$2"
    check "$1: containerd by ns" containerd_pulls "$2"
    check "$1: podman by a mirror" podman_pulls "$2"
    check "$1: buildah by a mirror" buildah_pulls "$2"
}

## What is checked

# Of the image for several platforms: not what is another's.
each_blob_was_fetched_once() {
    local digest
    asked
    while read -r digest; do
        same "1 $digest" "$(given GET "/blobs/$digest" | wc -l) $digest"
    done < <(layers "$WORK/image")
}

no_manifest_was_fetched_twice() {
    asked
    [ -n "$(given GET /manifests/)" ]
    [ -z "$(given GET /manifests/ | uniq -d)" ]
}

no_tag_was_fetched() {
    asked
    [ -z "$(given GET '/manifests/1$')" ]
}

the_other_platform_was_left() {
    local digest
    digest=$(layers "$WORK/other" | tail -n 1)
    lacks "GET /v2/shop/multi/blobs/$digest" "$WORK/registry.log"
}

ask() { gateway_curl -u "$LOGIN" -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$@"; }

# head_of PATH: the answer's head.
head_of() { ask -D - -o /dev/null "$1" | tr -d '\r'; }

is_said_to_be_stale() {
    local head
    head=$(head_of /v2/shop/web/manifests/1)
    has '^HTTP/[0-9.]+ 200' "$head"
    has '^[Xx]-[Cc]ache: STALE' "$head"
    has '^[Ww]arning: 299 ' "$head"
    same "$(manifest_digest "$WORK/image")" "$(sed -nE 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p' <<<"$head")"
}

blobs_are_never_stale() {
    local head
    head=$(head_of "/v2/shop/web/blobs/$(layers "$WORK/image" | head -n 1)")
    has '^HTTP/[0-9.]+ 200' "$head"
    has '^[Xx]-[Cc]ache: HIT' "$head"
}

is_fresh() { has '^[Xx]-[Cc]ache: (HIT|REVALIDATED)' "$(head_of /v2/shop/web/manifests/1)"; }

is_the_other_image() { [ "$(head_of /v2/shop/web/manifests/1 | sed -nE 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p')" = "$(manifest_digest "$WORK/other")" ]; }

no_stranger_is_served() {
    same 401 "$(gateway_curl -o /dev/null -w '%{http_code}' /v2/shop/web/manifests/1)"
    same 401 "$(gateway_curl -o /dev/null -w '%{http_code}' "/v2/shop/web/blobs/$(layers "$WORK/image" | head -n 1)")"
}

# shop/api is a repository that holds nothing.
another_repository_has_nothing_of_it() {
    same 404 "$(ask -o /dev/null -w '%{http_code}' "/v2/shop/api/blobs/$(layers "$WORK/image" | head -n 1)")"
    same 404 "$(ask -I -o /dev/null -w '%{http_code}' "/v2/shop/api/blobs/$(layers "$WORK/image" | head -n 1)")"
}

refuses_to_push() {
    same 405 "$(gateway_curl -u "$LOGIN" -X POST -o /dev/null -w '%{http_code}' /v2/shop/web/blobs/uploads/)"
}

start_token_registry
fill_registry
start_gateway
start_mirror
for HOST_OF_DOCKER in "$HOST" "$MIRROR"; do HOST=$HOST_OF_DOCKER trust_in_docker; done
trust_dir >/dev/null
start_clients
forget_requests

check "cold: docker" docker_pulls docker-login "$HOST/$WEB"
check "each blob is fetched once" each_blob_was_fetched_once
check "no tag is fetched: HEAD, and GET by digest" no_tag_was_fetched
forget_requests
every_client_pulls "the others" "$WEB"
check "the registry was asked nothing, nor the token server" nothing_was_asked
check "cold: several platforms" containerd_pulls "$MULTI"
check "no manifest is fetched twice" no_manifest_was_fetched_twice
check "the layers of the other platform are left" the_other_platform_was_left
forget_requests
every_client_pulls "several platforms" "$MULTI"
check "again nothing was asked" nothing_was_asked
check "a client without a login gets nothing of it" no_stranger_is_served
check "another repository has nothing of it" another_repository_has_nothing_of_it
check "a cache is not pushed to" refuses_to_push
check "cold: an image that no other client pulls" containerd_pulls "$LONE"

stop "$REGISTRY_PID"
every_client_pulls "no registry" "$WEB"
every_client_pulls "no registry, several platforms" "$MULTI"

# Dead from the start, and the tags grow old.
TAG_TTL=1s
restart_gateways
sleep 1
check "no registry from the start: the image of one client" containerd_pulls "$LONE"
check "an old tag is said to be stale" is_said_to_be_stale
check "a blob is not" blobs_are_never_stale
every_client_pulls "no registry from the start, old tags" "$WEB"

serve_registry docker-registry
check "a registry that is back is asked again" within 20 is_fresh
put_image "$WORK/other" "$WEB"
check "a tag that was moved is seen when its time is over" within 20 is_the_other_image
check "upstream has seen the robot alone" same robot "$(registry_users)"
check "the gateway's log holds no secret" holds_no_secret "$WORK/gateway.log" "$PASSWORD" "$(basic "$LOGIN")"

done_checking
