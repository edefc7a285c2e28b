#!/usr/bin/env bash
# The flow of every registry tutorial, with a real dockerd.
source "$(dirname "$0")/lib.sh"

start_registry
start_gateway
start_dockerd
make_image "$WORK/image"
skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/image.tar:$HOST/shop/web:1"
docker load --quiet --input "$WORK/image.tar" >/dev/null
docker tag "$HOST/shop/web:1" "$HOST/team/web:1"

login() { docker login --username "$USER_NAME" --password-stdin "$HOST" <<<"$1"; }
push() { docker push "$1" | tee "$WORK/push.out"; }
pushed_digest() { grep -oE 'sha256:[0-9a-f]{64} size' "$WORK/push.out" | cut -d' ' -f1; }
pulled_digest() { docker pull "$1" | sed -n 's/^Digest: //p'; }

# dockerd believes that a registry on 127.0.0.0/8 may also speak plain HTTP: a refused pull is tried again without TLS,
# and that attempt's error is what the user sees. The first refusal is in dockerd's log.
pull_is_refused() {
    : >"$WORK/dockerd.log"
    refused '' docker pull "$1"
    grep -q "no basic auth credentials" "$WORK/dockerd.log"
}

pulls_what_was_pushed() {
    docker image rm "$1"
    same "$(pushed_digest)" "$(pulled_digest "$1")"
    docker image inspect "$1"
}

pulls_by_digest() { same "$(pushed_digest)" "$(pulled_digest "$HOST/shop/web@$(pushed_digest)")"; }

pushes_again() {
    docker tag "$HOST/shop/web:1" "$HOST/shop/web:2"
    says 'Layer already exists' push "$HOST/shop/web:2"
}

# The layers are in shop/web already: dockerd asks to mount them.
pushes_to_another_repository() {
    docker tag "$HOST/shop/web:1" "$HOST/shop/api:1"
    says 'digest: sha256' push "$HOST/shop/api:1"
    docker image rm "$HOST/shop/api:1"
    docker pull "$HOST/shop/api:1"
}

builds_from_a_private_image() {
    docker image rm -f "$HOST/shop/web:1"
    printf 'FROM %s/shop/web:1\nLABEL made=here\n' "$HOST" | DOCKER_BUILDKIT=0 docker build -t "$HOST/shop/built:1" -
    push "$HOST/shop/built:1"
}

check "push without login is refused" refused 'no basic auth credentials' docker push "$HOST/shop/web:1"
check "pull without login is refused" pull_is_refused "$HOST/shop/web:1"
check "a wrong password is refused" refused 'unauthorized|401' login wrong
check "an unknown user is refused" refused 'unauthorized|401' docker login -u nobody --password-stdin "$HOST" <<<"$PASSWORD"
check "the right password logs in" says 'Login Succeeded' login "$PASSWORD"
check "push" says 'digest: sha256' push "$HOST/shop/web:1"
check "pull gives the digest that was pushed" pulls_what_was_pushed "$HOST/shop/web:1"
check "pull by digest" pulls_by_digest
check "a second tag uploads no layer again" pushes_again
check "push to another repository mounts or uploads" pushes_to_another_repository
check "pull of an unknown tag says so" refused 'manifest unknown|not found' docker pull "$HOST/shop/web:none"
check "build from a private image" builds_from_a_private_image
check "push under a prefix" says 'digest: sha256' push "$HOST/team/web:1"
check "pull under a prefix" pulls_what_was_pushed "$HOST/team/web:1"
check "the prefix is not part of the upstream's name" has '"1"' "$(curl -sS "http://$REGISTRY/v2/web/tags/list")"
check "logout" says 'Removing login credentials' docker logout "$HOST"
check "push after logout is refused" refused 'no basic auth credentials' docker push "$HOST/shop/web:1"
check "pull after logout is refused" pull_is_refused "$HOST/shop/web:2"

done_checking
