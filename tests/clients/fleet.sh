#!/usr/bin/env bash
# Three gateways that share ([peers]): one download for all, and what happens when their owner is killed or stopped, when members
# come and go, and when none reaches another. The small form of tests/bench/fleet.
source "$(dirname "$0")/lib.sh"

# What a replica that fails has taken in advance of the others is asked for again: so the line is slow enough for an unoptimised
# binary to keep up with.
scene() { "$ROOT/tests/bench/fleet/run" --binary "$DOCKGATE" --size 128 --clients 24 --rate 16 --slack 3 "$1"; }

check "a herd over three replicas is one download" scene herd
check "the others finish when the owner is killed" scene killed
check "the others go on when the owner is stopped" scene stopped
check "a tag pulled 1000 times is asked for once" scene tag
check "ranges over three replicas are one download" scene ranges
check "members may come and go during a herd" scene flipping
check "replicas that cannot reach each other download for themselves" scene parted

done_checking
