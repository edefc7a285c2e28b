#!/usr/bin/env bash
# The files that `dockgate client-config` writes, used by containerd, podman, buildah, skopeo and docker as they are, and read by
# the code of BuildKit, k3s and CRI-O.
source "$(dirname "$0")/lib.sh"

LOGIN=$USER_NAME:$PASSWORD
NODE=$WORK/node
FILES=$NODE/etc

# The registry behind the gateway stands for Docker Hub too: what is pulled as docker.io/... can only come by the mirror.
gateway_config() {
    SERVER_KEYS="external_url = \"https://$HOST\"" server_config
    cat <<END

[[access]]
users = ["anonymous"]
repositories = ["docker.io/open/**"]
actions = ["pull"]

[[access]]
users = ["*"]
repositories = ["**"]
actions = ["*"]
END
    upstream_config registry ""
    # docker's mirror: it takes no path.
    UPSTREAM_KEYS='hosts = ["localhost"]' upstream_config docker.io docker.io
    upstream_config team.example team.example
}

# config CLIENT [OPTION...]: writes the files of a client for a machine whose root is NODE.
config() {
    rm -rf "$NODE"
    "$DOCKGATE" client-config "$@" --config "$WORK/dockgate.toml" --directory "$NODE"
}

config_with_login() { config "$@" -u "$USER_NAME" --password-stdin <<<"$PASSWORD"; }

# Paths within the files are those of the machine, whose root is elsewhere here.
containerd_pulls() {
    sed -i "s|\"/etc/containerd|\"$FILES/containerd|" "$FILES"/containerd/certs.d/*/hosts.toml
    tr_ images pull --snapshotter native --hosts-dir "$FILES/containerd/certs.d" "$@" >/dev/null &&
        tr_ images rm --sync "${@: -1}"
}

containerd_pulls_by_the_mirror() {
    config_with_login containerd
    containerd_pulls team.example/shop/web:1
}

containerd_is_kept_to_the_gateway() {
    config_with_login containerd --no-fallback
    containerd_pulls team.example/shop/web:1
    refused 'not found|404' containerd_pulls team.example/shop/missing:1
    config containerd --no-fallback
    refused '401|nauthorized|authorization failed' containerd_pulls team.example/shop/web:1
}

containerd_asks_for_every_registry() {
    config_with_login containerd --no-fallback --every-registry
    refused 'not found|404' containerd_pulls unknown.example/shop/web:1
}

containerd_pulls_by_the_gateways_name() {
    config containerd
    containerd_pulls --user "$USER_NAME:$PASSWORD" "$HOST/shop/web:1"
}

# The folder of certificates, where these programs look without an option, and the file of registries.
podman_is_configured() {
    config podman "$@"
    local trusted=$HOME/.config/containers/certs.d
    rm -rf "$trusted"
    mkdir -p "$trusted"
    cp -r "$FILES/containers/certs.d/." "$trusted/"
    export CONTAINERS_REGISTRIES_CONF=$FILES/containers/registries.conf.d/50-dockgate.conf
}

podman_pulls_by_the_mirror() {
    podman_is_configured
    pod login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
    pod pull --quiet team.example/shop/web:1
    pod rmi --all --force
}

podman_is_kept_to_the_gateway() {
    podman_is_configured --no-fallback
    pod pull --quiet docker.io/shop/web:1
    pod rmi --all --force
    refused 'manifest unknown|not found|name unknown' pod pull --quiet docker.io/library/alpine:3
}

buildah_pulls_by_the_mirror() {
    podman_is_configured
    buildah --storage-driver vfs --root "$WORK/store" --runroot "$SHORT/run" pull --quiet team.example/shop/web:1
}

skopeo_takes_the_folder_of_the_certificate() {
    skopeo inspect --cert-dir "$WORK/certs/client" --creds "$USER_NAME:$PASSWORD" "docker://$HOST/shop/web:1" >/dev/null
}

# dockerd with the daemon.json that was written, and what keeps it from touching this machine.
daemon_settings() {
    jq '. + {features: {"containerd-snapshotter": false}}' "$FILES/docker/daemon.json" >"$1" && echo "$1"
}

docker_pulls_by_the_mirror() {
    same "$(cat "$CA")" "$(cat "$FILES/docker/certs.d/$HOST/ca.crt")"
    same "$(cat "$CA")" "$(cat "$FILES/docker/certs.d/localhost:${HOST##*:}/ca.crt")"
    docker pull --quiet open/web:1
    grep -q 'docker.io/open/web' "$WORK/gateway.log"
}

docker_pulls_by_the_gateways_name() {
    docker login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"
    docker pull --quiet "$HOST/docker.io/shop/web:1"
}

docker_reads_the_pull_secret() {
    config_with_login kubernetes
    mkdir -p "$WORK/pull-secret"
    sed -n 's/^  .dockerconfigjson: //p' "$NODE/dockgate-pull-secret.yaml" | jq -r . >"$WORK/pull-secret/config.json"
    docker --config "$WORK/pull-secret" pull --quiet "$HOST/shop/web:1"
}

# asked PROGRAM FILE NAME: where the program's own code looks for what is called so.
asked() { parsers "$@" 2>>"$WORK/parsers.log"; }

buildkit_asks_the_gateway_first() {
    config buildkit
    sed -i "s|\"/etc/buildkit|\"$FILES/buildkit|" "$FILES/buildkit/buildkitd.toml"
    same "$(printf '%s\n' "https://$HOST/v2/team.example" https://team.example/v2)" "$(asked buildkit "$FILES/buildkit/buildkitd.toml" team.example)"
    same "https://$HOST/v2" "$(asked buildkit "$FILES/buildkit/buildkitd.toml" "$HOST")"
    rm "$FILES/buildkit/dockgate-ca.crt"
    refused 'dockgate-ca.crt' parsers buildkit "$FILES/buildkit/buildkitd.toml" team.example
}

k3s_asks_the_gateway() {
    local file=$FILES/rancher/k3s/registries.yaml
    config_with_login k3s
    same "https://$HOST $LOGIN /etc/rancher/k3s/dockgate-ca.crt" "$(asked k3s "$file" team.example)"
    same "$(cat "$CA")" "$(cat "$FILES/rancher/k3s/dockgate-ca.crt")"
    refused 'no mirror' parsers k3s "$file" unknown.example
    config_with_login k3s --every-registry
    same "https://$HOST $LOGIN /etc/rancher/k3s/dockgate-ca.crt" "$(asked k3s "$file" '*')"
}

crio_asks_the_gateway() {
    local file=$FILES/containers/registries.conf.d/50-dockgate.conf
    config podman
    same "$(printf '%s\n' "$HOST/docker.io/library/alpine:3" docker.io/library/alpine:3)" "$(asked containers "$file" alpine:3)"
    config podman --no-fallback
    same "$HOST/docker.io/library/alpine:3" "$(asked containers "$file" alpine:3)"
}

nothing_is_overwritten() {
    config docker
    echo '{"debug": true}' >"$FILES/docker/daemon.json"
    refused 'other content' "$DOCKGATE" client-config docker --config "$WORK/dockgate.toml" --directory "$NODE"
    same '{"debug": true}' "$(cat "$FILES/docker/daemon.json")"
}

need_parsers
start_registry
start_gateway
make_image "$WORK/image"
for repository in shop/web open/web; do
    skopeo copy --quiet --dest-cert-dir "$WORK/certs/client" --dest-creds "$USER_NAME:$PASSWORD" \
        "oci:$WORK/image:1" "docker://$HOST/$repository:1"
done

check "skopeo takes DIR/client of dockgate certificate" skopeo_takes_the_folder_of_the_certificate
check "no file is overwritten" nothing_is_overwritten
check "BuildKit's own code asks the gateway first" buildkit_asks_the_gateway_first
check "k3s' own code asks the gateway, with login and CA" k3s_asks_the_gateway
check "CRI-O's own code asks the gateway" crio_asks_the_gateway

start_containerd
check "containerd pulls by the mirror" containerd_pulls_by_the_mirror
check "containerd is kept to the gateway" containerd_is_kept_to_the_gateway
check "containerd asks the gateway for every registry" containerd_asks_for_every_registry
check "containerd pulls by the gateway's name" containerd_pulls_by_the_gateways_name

check "podman pulls by the mirror" podman_pulls_by_the_mirror
check "podman is kept to the gateway" podman_is_kept_to_the_gateway
check "buildah pulls by the mirror" buildah_pulls_by_the_mirror
unset CONTAINERS_REGISTRIES_CONF

config docker >"$WORK/config.log"
start_dockerd
check "docker pulls by the mirror" docker_pulls_by_the_mirror
check "docker pulls by the gateway's name" docker_pulls_by_the_gateways_name
check "docker reads the pull secret" docker_reads_the_pull_secret

done_checking
