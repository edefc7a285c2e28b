#!/usr/bin/env bash
# buildah: images built from scratch and from the registry, without running anything.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
TRUST=$(trust_dir)
IMAGE=$HOST/shop/built:1

bud() {
    buildah --storage-driver vfs --root "$WORK/store" --runroot "$WORK/runroot" "$@"
}
login() { bud login --cert-dir "$TRUST" -u "$USER_NAME" --password-stdin "$HOST" <<<"$1"; }
push() { bud push --quiet --cert-dir "$TRUST" --digestfile "$WORK/digest" "$@"; }
pull() { bud pull --quiet --cert-dir "$TRUST" "$@"; }

build() {
    local container
    container=$(bud from --isolation chroot scratch)
    head -c 3000000 /dev/urandom >"$WORK/payload"
    bud copy "$container" "$WORK/payload" /payload
    bud config --cmd /payload "$container"
    bud commit --quiet "$container" "$IMAGE"
    bud rm "$container"
}

pulls_what_was_pushed() {
    bud rmi --all --force
    pull "$IMAGE"
    same "$(cat "$WORK/digest")" "$(bud inspect --type image --format '{{.FromImageDigest}}' "$IMAGE")"
}

builds_on_top() {
    printf 'FROM %s\nCOPY Containerfile /\n' "$IMAGE" >"$WORK/Containerfile"
    bud rmi --all --force
    bud build --isolation chroot --cert-dir "$TRUST" --layers=false -t "$HOST/team/top:1" -f "$WORK/Containerfile" "$WORK"
    push "$HOST/team/top:1"
    bud rmi --all --force
    pull "$HOST/team/top:1"
}

commits_into_the_registry() {
    local container
    container=$(bud from --isolation chroot --pull-always --cert-dir "$TRUST" "$IMAGE")
    bud commit --quiet --cert-dir "$TRUST" "$container" "docker://$HOST/shop/committed:1"
    bud rm "$container"
    pull "$HOST/shop/committed:1"
}

logs_out() {
    bud logout "$HOST"
    refused 'authentication required|unauthorized' push "$HOST/team/top:1"
}

build >/dev/null

check "push without login is refused" refused 'authentication required|unauthorized' push "$IMAGE"
check "a wrong password is refused" refused 'invalid username/password' login wrong
check "the right password logs in" says 'Login Succeeded' login "$PASSWORD"
check "push" push "$IMAGE"
check "pull gives the digest that was pushed" pulls_what_was_pushed
check "commit straight into the registry" commits_into_the_registry
check "build on top of a private image" builds_on_top
check "logout" logs_out

done_checking
