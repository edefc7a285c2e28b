#!/usr/bin/env bash
# containerd of its own, by `ctr` with hosts.toml files.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
make_image "$WORK/image"
skopeo copy --quiet "oci:$WORK/image:1" "oci-archive:$WORK/image.tar:$HOST/shop/web:1"

push() { tr_ images push --hosts-dir "$WORK/hosts" "$@" >/dev/null; }
pull() { tr_ images pull --snapshotter native --hosts-dir "$WORK/hosts" "$@" >/dev/null; }
user() { echo "--user=$USER_NAME:$1"; }
forget() { tr_ images rm --sync "$@"; }
digest_of() { tr_ images ls "name==$1" | awk 'NR == 2 { print $3 }'; }

pulls_what_was_pushed() {
    forget "$IMAGE"
    pull "$(user "$PASSWORD")" "$IMAGE"
    same "$(manifest_digest "$WORK/image")" "$(digest_of "$IMAGE")"
}

pulls_by_digest() {
    local name
    name=$HOST/shop/web@$(manifest_digest "$WORK/image")
    pull "$(user "$PASSWORD")" "$name"
    forget "$name"
}

pushes_under_a_prefix() {
    tr_ images tag "$IMAGE" "$HOST/team/web:1"
    push "$(user "$PASSWORD")" "$HOST/team/web:1"
}

# mirrored_at URL [LINE]: an image of a registry that does not exist, by the gateway as its mirror.
mirrored_at() {
    hosts_toml team.example "https://team.example" "$@"
    forget "$IMAGE" "$HOST/team/web:1" || true
    pull "$(user "$PASSWORD")" team.example/web:1
    same "$(manifest_digest "$WORK/image")" "$(digest_of team.example/web:1)"
    forget team.example/web:1
}

start_containerd
IMAGE=$HOST/shop/web:1
tr_ images import --snapshotter native "$WORK/image.tar" >/dev/null
hosts_toml "$HOST" "https://$HOST" "https://$HOST"

check "push without login is refused" refused '401|nauthorized|authorization failed' push "$IMAGE"
check "push with a wrong password is refused" refused '401|nauthorized|authorization failed' push "$(user wrong)" "$IMAGE"
check "push" push "$(user "$PASSWORD")" "$IMAGE"
check "pull without login is refused" refused '401|nauthorized|authorization failed' pull "$IMAGE"
check "pull gives the digest that was pushed" pulls_what_was_pushed
check "pull by digest" pulls_by_digest
check "push under a prefix" pushes_under_a_prefix
# ns is sent in all three; in the last two a prefix says the same.
check "a mirror of a namespace, by ?ns=" mirrored_at "https://$HOST"
check "a mirror with a prefix before /v2" mirrored_at "https://$HOST/team"
check "a mirror with a prefix after /v2" mirrored_at "https://$HOST/v2/team" 'override_path = true'
check "a mirror without login is refused" refused '401|nauthorized|authorization failed' pull team.example/web:2

done_checking
