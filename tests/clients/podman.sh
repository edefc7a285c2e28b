#!/usr/bin/env bash
# podman with a store of its own; nothing is run in it.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
make_image "$WORK/image"
TRUST=$(trust_dir)
IMAGE=$HOST/shop/web:1

login() { pod login --cert-dir "$TRUST" -u "${2:-$USER_NAME}" --password-stdin "$HOST" <<<"$1"; }
push() { pod push --quiet --cert-dir "$TRUST" --digestfile "$WORK/digest" "$@"; }
pull() { pod pull --quiet --cert-dir "$TRUST" "$@"; }

pulls_what_was_pushed() {
    pod rmi --force "$1"
    pull "$1"
    same "$(cat "$WORK/digest")" "$(pod image inspect --format '{{.Digest}}' "$1")"
}

pulls_by_digest() {
    pod rmi --all --force
    pull "$HOST/shop/web@$(cat "$WORK/digest")"
    pull "$IMAGE"
}

pushes_under_a_prefix() {
    pod tag "$IMAGE" "$HOST/team/web:1"
    push "$HOST/team/web:1"
    pulls_what_was_pushed "$HOST/team/web:1"
}

pushes_a_manifest_list() {
    pod manifest create list
    pod manifest add --cert-dir "$TRUST" list "docker://$IMAGE"
    pod manifest push --all --cert-dir "$TRUST" list "docker://$HOST/shop/list:1"
    pod manifest rm list
    pull "$HOST/shop/list:1"
}

# registries.conf sends what is asked of team.example to the gateway's prefix, as a mirror.
pulls_by_a_mirror() {
    cat >"$WORK/registries.conf" <<END
[[registry]]
location = "team.example"
[[registry.mirror]]
location = "$HOST/team"
END
    pod rmi --all --force
    CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf pull team.example/web:1
}

logs_out() {
    pod logout "$HOST"
    pod rmi --all --force
    refused 'authentication required|unauthorized' pull "$IMAGE"
}

skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/image.tar:$IMAGE"
pod load --quiet --input "$WORK/image.tar" >/dev/null

check "push without login is refused" refused 'authentication required|unauthorized' push "$IMAGE"
check "pull without login is refused" refused 'authentication required|unauthorized' pull "$HOST/shop/other:1"
check "a wrong password is refused" refused 'invalid username/password' login wrong
check "an unknown user is refused" refused 'invalid username/password' login "$PASSWORD" nobody
check "the right password logs in" says 'Login Succeeded' login "$PASSWORD"
check "push" push "$IMAGE"
check "pull gives the digest that was pushed" pulls_what_was_pushed "$IMAGE"
check "pull by digest" pulls_by_digest
check "push and pull under a prefix" pushes_under_a_prefix
check "push of a manifest list" pushes_a_manifest_list
check "search lists the tags" says 'shop/web +1' pod search --list-tags "$HOST/shop/web"
check "pull by a mirror in registries.conf" pulls_by_a_mirror
check "logout" logs_out

done_checking
