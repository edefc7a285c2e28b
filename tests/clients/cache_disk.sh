#!/usr/bin/env bash
# A cache whose disk is too small, full, filled up in the middle of a download, read-only: the gateway goes on, says what is
# wrong, and keeps content again as soon as it can. The disk is a tmpfs of its own, so what fails is the system, not a stand-in.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/disks.sh"

MIB=1048576

mount_disk() {
    mkdir -p "$DISK"
    # Writable by all, as Kubernetes makes its volumes for a pod.
    mount -t tmpfs -o size=24m,mode=2777 none "$DISK" || { echo "  a tmpfs cannot be mounted here, and a full disk is not to be had without"; exit 1; }
    on_exit+=("umount -q '$DISK'")
}

gateway_config() {
    server_config
    cat <<TOML

[[upstream]]
name = "registry"
url = "http://$UPSTREAM"
prefix = ""

[upstream.cache]
tag_ttl = "1h"

[cache]
path = "$DISK/cache"
min_free = "0%"
TOML
}

cache_says() { blob "$1" "$2" -D - -o /dev/null | tr -d '\r' | sed -nE 's/^[Xx]-[Cc]ache: //p'; }

is_kept() { same HIT "$(cache_says "$1" "$2")"; }
is_not_kept() { same MISS "$(cache_says "$1" "$2" | sed 's/FILL/MISS/')"; }

is_ready() { same 200 "$(curl -sS -o /dev/null -w '%{http_code}' "http://$ADMIN/readyz")"; }

fill_up() { ! head -c $((64 * MIB)) /dev/zero >"$DISK/ballast" 2>/dev/null; }
free_again() { rm -f "$DISK/ballast"; }

pulls_three_at_once() {
    local number
    for number in 1 2 3; do
        blob slow/web "$WORK/middle" >"$WORK/blob.$number" &
    done
    sleep 0.7
    fill_up
    wait
    for number in 1 2 3; do
        same "$(layer "$WORK/middle")" "sha256:$(sha256sum <"$WORK/blob.$number" | cut -d' ' -f1)"
    done
    same 1 "$(grep -c "GET /v2/slow/web/blobs/$(layer "$WORK/middle") " "$WORK/asked.log")"
}

mount_disk
start_registry
start_slow_way
start_gateway
TRUST=$(trust_dir)
make_image "$WORK/small" 4
make_image "$WORK/middle" 16
make_image "$WORK/large" 32
make_image "$WORK/second" 6
put_image "$WORK/small" fast/small
put_image "$WORK/second" fast/second
put_image "$WORK/large" fast/large
put_image "$WORK/middle" slow/web

check "what fits is kept" pulls fast/small "$WORK/small"
check "it is served from there" is_kept fast/small "$WORK/small"
check "an image larger than the disk is pulled" pulls fast/large "$WORK/large"
check "its large layer is not kept" is_not_kept fast/large "$WORK/large"
check "what was kept before still is, or can be again" pulls fast/small "$WORK/small"
check "the gateway is ready" is_ready

check "the disk fills up in the middle of a download, which all who wait get whole" pulls_three_at_once
check "the log says so" within 5 grep -aq ' WARN .*cache storage degraded' "$WORK/gateway.log"
check "/readyz names it" within 5 readyz_names 'full'
check "and is ready" is_ready
check "a full disk: another image is pulled" pulls fast/second "$WORK/second"
check "a full disk: one larger than it is pulled" pulls fast/large "$WORK/large"
check "a full disk: what it would have kept is not kept" is_not_kept fast/second "$WORK/second"
free_again
check "there is room again: it recovers by itself" within 40 is_not_degraded
check "the log says so too" within 5 grep -aq 'cache storage recovered' "$WORK/gateway.log"
check "what is pulled now is kept" pulls fast/second "$WORK/second"
check "and served from there" within 5 is_kept fast/second "$WORK/second"
check "no beginning of a download takes room for nothing" nothing_is_left_over

mount -o remount,ro "$DISK"
check "a read-only disk: what is there is served" is_kept fast/second "$WORK/second"
check "a read-only disk: what is not is pulled" pulls fast/large "$WORK/large"
check "a read-only disk: so is what would fit" pulls slow/web "$WORK/middle"
check "/readyz names that" within 5 readyz_names 'read-only'
mount -o remount,rw "$DISK"
check "it may be written again: it recovers by itself" within 40 is_not_degraded

stop "$GATEWAY"
fill_up
run_gateway
check "a full disk from the start: what is there is served" is_kept fast/second "$WORK/second"
check "a full disk from the start: the rest is pulled" pulls fast/large "$WORK/large"
free_again

done_checking
