#!/usr/bin/env bash
# A cache whose disk hangs: it is a file system on a loop device, which fsfreeze stops. Whatever would change it waits in the
# kernel until it is thawed; what it has can be read. The gateway passes it by, and uses it again afterwards.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/disks.sh"

# A request waits 3 s for the disk, once for what it reads and once for what it keeps; the rest is for pulling.
DEADLINE=8000
# Once the disk is known to hang, nothing waits for it.
QUICK=2000

mount_disk() {
    mkdir -p "$DISK"
    truncate -s 256M "$WORK/disk.img"
    mkfs.ext4 -q "$WORK/disk.img"
    mount -o loop "$WORK/disk.img" "$DISK" || { echo "  a loop device cannot be mounted here, and a disk that hangs is not to be had without"; exit 1; }
    on_exit+=("umount -q '$DISK'")
    freeze && thaw || { echo "  fsfreeze cannot stop a file system here, and a disk that hangs is not to be had without"; exit 1; }
    # A process that waits for a frozen disk cannot be ended, so the disk is thawed before the servers are.
    trap 'ended_with=$?; set +e; thaw; (exit $ended_with); finish' EXIT
    trap 'exit 130' INT TERM
}

freeze() { fsfreeze --freeze "$DISK"; }
thaw() { fsfreeze --unfreeze "$DISK" 2>/dev/null; }

gateway_config() {
    server_config
    cat <<TOML

[[upstream]]
name = "registry"
url = "http://$UPSTREAM"
prefix = ""
read_only = false

[upstream.cache]
tag_ttl = "1h"

[cache]
path = "$DISK/cache"
min_free = "0%"
TOML
}

pushes() { skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$1:1" "docker://$HOST/$2:1"; }

cache_says() { tr -d '\r' | sed -nE 's/^[Xx]-[Cc]ache: //p'; }
blob_says() { blob "$1" "$2" -D - -o /dev/null | cache_says; }
manifest_says() { gateway_curl -u "$LOGIN" -D - -o /dev/null "/v2/$1/manifests/1" | cache_says; }

is_hit() { same HIT "$(manifest_says "$1")" && same HIT "$(blob_says "$1" "$2")"; }

# in_time MILLISECONDS COMMAND...: it succeeds, and takes no longer.
in_time() {
    local begun=${EPOCHREALTIME/[.,]/} taken
    "${@:2}"
    taken=$(((${EPOCHREALTIME/[.,]/} - begun) / 1000))
    [ $taken -le "$1" ] || { echo "it took $taken ms, and may take $1 ms"; return 1; }
}

status() { curl -sS -m 5 -o /dev/null -w '%{http_code}' "http://$ADMIN/$1"; }
is_healthy() { same 200 "$(status healthz)" && same 200 "$(status readyz)"; }

# New connections, while others wait for the disk.
handshakes_go_on() {
    local number
    blob fast/first "$WORK/first" >"$WORK/first.got" &
    for number in 1 2 3 4 5 6 7 8; do
        in_time 1000 answers
        sleep 0.2
    done
    wait
    same "$(layer "$WORK/first")" "sha256:$(sha256sum <"$WORK/first.got" | cut -d' ' -f1)"
}

# The file that they were to read is given up: some may have to ask for what they have not got yet, and none for the whole.
pulls_three_at_once() {
    local number
    for number in 1 2 3; do
        blob slow/web "$WORK/middle" >"$WORK/blob.$number" &
    done
    sleep 0.7
    freeze
    wait
    for number in 1 2 3; do
        same "$(layer "$WORK/middle")" "sha256:$(sha256sum <"$WORK/blob.$number" | cut -d' ' -f1)"
    done
    same 1 "$(grep -c "GET /v2/slow/web/blobs/$(layer "$WORK/middle") HTTP/1.1\" 200 " "$WORK/asked.log")"
}

stops_answering() { ! curl -s -m 2 -o /dev/null --cacert "$CA" "https://$HOST/v2/"; }

# After SIGTERM the clients are rid of it, although the process waits in the kernel until the disk is thawed.
stops_for_clients() {
    kill "$GATEWAY"
    within 20 stops_answering
}

mount_disk
start_registry
start_slow_way
start_gateway
TRUST=$(trust_dir)
make_image "$WORK/kept" 4
make_image "$WORK/first" 3
make_image "$WORK/second" 6
make_image "$WORK/pushed" 2
make_image "$WORK/middle" 16
put_image "$WORK/kept" fast/kept
put_image "$WORK/first" fast/first
put_image "$WORK/second" fast/second
put_image "$WORK/middle" slow/web

check "an image is pulled and kept" pulls fast/kept "$WORK/kept"
check "it is served from there" within 10 is_hit fast/kept "$WORK/kept"

freeze
check "a frozen disk: handshakes go on while a cold blob waits for it" in_time $DEADLINE handshakes_go_on
check "a frozen disk: cold content is pulled within the deadline" in_time $DEADLINE pulls fast/first "$WORK/first"
check "/readyz names it" within 10 readyz_names 'has not answered'
check "the log says so" within 5 grep -aq ' WARN .*cache storage degraded' "$WORK/gateway.log"
check "the gateway is healthy and ready" is_healthy
check "a frozen disk: kept content is served from it" in_time $QUICK is_hit fast/kept "$WORK/kept"
check "a frozen disk: it is pulled whole" in_time $DEADLINE pulls fast/kept "$WORK/kept"
check "a frozen disk: nothing waits for it again" in_time $QUICK pulls fast/second "$WORK/second"
check "a frozen disk: an image is pushed" in_time $DEADLINE pushes "$WORK/pushed" fast/pushed
check "a frozen disk: and pulled by its tag" in_time $DEADLINE pulls fast/pushed "$WORK/pushed"
thaw
check "a thawed disk: it recovers by itself" within 40 is_not_degraded
check "the log says so too" within 5 grep -aq 'cache storage recovered' "$WORK/gateway.log"
check "a thawed disk: what is pulled is kept" pulls fast/second "$WORK/second"
check "a thawed disk: it is served from there" within 10 is_hit fast/second "$WORK/second"
check "a thawed disk: what was kept before still is" is_hit fast/kept "$WORK/kept"

check "the disk freezes during a download, which all who wait get whole" pulls_three_at_once
thaw
check "it recovers from that too" within 40 is_not_degraded
check "the image is kept after that" pulls slow/web "$WORK/middle"
check "and served from there" within 10 is_hit slow/web "$WORK/middle"
check "no beginning of a download takes room for nothing" within 20 nothing_is_left_over

freeze
check "a frozen disk: one more pull" in_time $DEADLINE pulls fast/first "$WORK/first"
check "a frozen disk: SIGTERM ends it for its clients" stops_for_clients
thaw
check "the process ends with the thaw" within 15 ended "$GATEWAY"

freeze
run_gateway
check "a disk frozen from the start: images are pulled" in_time $DEADLINE pulls fast/kept "$WORK/kept"
check "a disk frozen from the start: the gateway is healthy and ready" is_healthy
thaw
check "a disk frozen from the start: it is used once it is thawed" within 40 is_not_degraded
check "what was kept before the restart is served from there" within 20 is_hit fast/kept "$WORK/kept"

done_checking
