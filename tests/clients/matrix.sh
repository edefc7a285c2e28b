#!/usr/bin/env bash
# Each client with each kind of upstream: a loop over both, and one function for each family of clients and operation. What
# has passed is compared with the table in tests/README.md. MATRIX=all adds the clients that take long to build; MATRIX='crane
# oras' runs these alone.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"
source "$CLIENTS/table.sh"

VARIANTS=(registry distribution token htpasswd cdn cache)
CASES=(login push pull list attach copy delete)
ROWS=(docker containerd podman skopeo buildah crane oras regctl)
LONG_CLIENTS=(containerd2 helm cosign)
case ${MATRIX:-} in
    '') ;;
    all) ROWS+=("${LONG_CLIENTS[@]}") ;;
    *) read -ra ROWS <<<"$MATRIX" ;;
esac

# Clients that have their commands in common.
declare -A FAMILY=([containerd]=ctr [containerd2]=ctr [podman]=containers [buildah]=containers)

# CLIENT|CASES|REASON: what a client has no command for.
NO_COMMAND=(
    "docker|list attach delete|its commands know local images alone, and \`docker search\` Docker Hub"
    "containerd|login|ctr stores no password: every command brings it"
    "containerd|list attach delete|ctr knows local images alone"
    "containerd2|login|ctr stores no password: every command brings it"
    "containerd2|list attach delete|ctr knows local images alone"
    "podman|attach delete|its artifacts and deletions are local"
    "skopeo|attach|it copies what exists"
    "buildah|list attach delete|it pulls and pushes images"
    "crane|attach|it reads referrers, and writes none"
    "helm|list attach copy delete|charts are pushed and pulled"
    "cosign|list|a signature is found by its image"
)

## The upstreams, each with a gateway of its own before it

# serve NAME PROGRAM [LINE]...: a registry with these further lines of configuration, on REGISTRY.
serve() {
    local name=$1 program=$2
    shift 2
    REGISTRY=127.0.0.1:$(free_port)
    cat >"$WORK/$name.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$WORK/storage/$name"}, delete: {enabled: true}}
http: {addr: "$REGISTRY", tls: {certificate: "$UPSTREAM_CERTIFICATE", key: "$UPSTREAM_KEY"}}
$(printf '%s\n' "$@")
END
    # podman's REGISTRY_AUTH_FILE would be taken for the registry's own auth.file.
    start "upstream-$name" env -u REGISTRY_AUTH_FILE OTEL_TRACES_EXPORTER=none "$program" serve "$WORK/$name.yml"
    started "$STARTED" 30 upstream_curl "https://$REGISTRY/v2/"
}

upstream_registry() { serve registry docker-registry; }
upstream_distribution() { serve distribution "$TOOLS/bin/registry"; }
upstream_cache() { serve cache docker-registry; }

upstream_token() {
    start_token_server
    serve token docker-registry \
        "auth: {token: {realm: \"https://$TOKENS/token\", service: $SERVICE, issuer: $ISSUER, rootcertbundle: \"$WORK/token.crt\"}}"
}

upstream_htpasswd() {
    htpasswd -Bbn -C 5 robot "$ROBOT_PASSWORD" >"$WORK/upstream.htpasswd"
    serve htpasswd docker-registry "auth: {htpasswd: {realm: 'Upstream Realm', path: \"$WORK/upstream.htpasswd\"}}"
}

upstream_cdn() {
    start_cdn "$WORK/storage/cdn"
    serve cdn docker-registry "$STORAGE_MIDDLEWARE"
}

# What [[upstream]] says besides.
keys_of() {
    case $1 in
        token | htpasswd) robot ;;
        cdn) printf '%s\n' "ca = \"$UPSTREAM_CA\"" "redirect_hosts = [\"$CDN\"]" ;;
        cache) printf '%s\n' "ca = \"$UPSTREAM_CA\"" 'read_only = false' '[upstream.cache]' '[cache]' \
            "path = \"$WORK/cached\"" 'min_free = "0%"' ;;
        *) echo "ca = \"$UPSTREAM_CA\"" ;;
    esac
}

declare -A hosts=()

start_upstream() {
    TOKENS=
    "upstream_$1"
    HOST=127.0.0.1:$(free_port)
    ADMIN=127.0.0.1:$(free_port)
    hosts[$1]=$HOST
    UPSTREAM_URL=https://$REGISTRY
    UPSTREAM_KEYS=$(keys_of "$1")
    { server_config && upstream_config "$1" ""; } >"$WORK/$1.toml"
    start "gateway-$1" "$DOCKGATE" serve --config "$WORK/$1.toml"
    started "$STARTED" 30 answers
    trust_in_docker
    trust_dir >"$WORK/trust_dir"
    hosts_toml "$HOST" "https://$HOST" "https://$HOST"
}

## The clients. HOST is the gateway, REPOSITORY the client's own there, IMAGE its first tag, and COPY another repository's.

# What is pushed is called LOCAL where a client has a store. It is removed before a pull, so that all of it is fetched.
LOCAL=local.example/web:1

# is_back LAYOUT: it has the bytes that were pushed.
is_back() {
    same "$DIGEST" "$(manifest_digest "$1")"
    diff -r "$WORK/image/blobs" "$1/blobs"
}

# is_gone COMMAND...: it says that there is no such thing.
is_gone() { refused '404|[Nn]ot[ _][Ff]ound|MANIFEST_UNKNOWN|manifest unknown' "$@"; }

prepare_docker() {
    start_dockerd
    load_docker
}
load_docker() { docker load --quiet --input "$WORK/image.docker.tar" >/dev/null; }
docker_login() { says 'Login Succeeded' docker login --username "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"; }
docker_push() {
    docker tag "$LOCAL" "$1"
    docker push "$1" | grep -oE 'sha256:[0-9a-f]{64} size' | cut -d' ' -f1 >"$WORK/docker.digest"
    docker image rm "$1"
}
docker_pull() {
    docker image rm "$LOCAL"
    same "$(cat "$WORK/docker.digest")" "$(docker pull "$1" | sed -n 's/^Digest: //p')"
    docker tag "$1" "$LOCAL"
    docker image rm "$1"
}
# The layers are in the first repository already: dockerd asks to mount them.
docker_copy() {
    docker_push "$2"
    docker_pull "$2"
}

prepare_containerd() { prepare_ctr containerd; }
prepare_containerd2() {
    need_containerd_2 "$TOOLS/containerd2"
    prepare_ctr containerd2 "$TOOLS/containerd2"
}
prepare_ctr() {
    start_containerd "$@"
    load_ctr
}
load_ctr() { tr_ images import --snapshotter native "$WORK/image.oci.tar" >/dev/null; }
ctr_() { tr_ images "$1" --hosts-dir "$WORK/hosts" --user "$USER_NAME:$PASSWORD" "${@:2}"; }
ctr_push() {
    tr_ images tag "$LOCAL" "$1"
    ctr_ push "$1"
    tr_ images rm --sync "$1"
}
ctr_pull() {
    tr_ images rm --sync "$LOCAL"
    ctr_ pull --snapshotter native "$1"
    same "$DIGEST" "$(tr_ images ls "name==$1" | awk 'NR == 2 { print $3 }')"
    tr_ images tag "$1" "$LOCAL"
    tr_ images rm --sync "$1"
}
ctr_copy() {
    ctr_push "$2"
    ctr_pull "$2"
}

prepare_podman() { load_containers; }
prepare_buildah() { load_containers; }
load_containers() { containers pull --quiet "docker-archive:$WORK/image.docker.tar" >/dev/null; }
containers() {
    case $CLIENT in
        podman) pod "$@" ;;
        buildah) buildah --storage-driver vfs --root "$WORK/buildah" --runroot "$SHORT/buildah" "$@" ;;
    esac
}
containers_login() { says 'Login Succeeded' containers login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"; }
containers_push() {
    containers tag "$LOCAL" "$1"
    containers push --quiet --digestfile "$WORK/containers.digest" "$1"
    containers rmi "$1"
}
containers_pull() {
    containers rmi "$LOCAL"
    containers pull --quiet "$1"
    # podman says it in an array.
    same "$(cat "$WORK/containers.digest")" \
        "$(containers inspect --type image "$1" | jq -r 'if type == "array" then .[0].Digest else .FromImageDigest end')"
    containers tag "$1" "$LOCAL"
    containers rmi "$1"
}
containers_list() { says "$REPOSITORY +1" containers search --list-tags "$REPOSITORY"; }
containers_copy() {
    containers_push "$2"
    containers_pull "$2"
}

skopeo_login() { says 'Login Succeeded' skopeo login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"; }
# Without the option it takes layers that podman has compressed anew, of which it knows from a cache of the machine's.
skopeo_push() { skopeo copy --quiet --preserve-digests "oci:$WORK/image:1" "docker://$1"; }
skopeo_pull() {
    rm -rf "$WORK/back"
    skopeo copy --quiet "docker://$1" "oci:$WORK/back:1"
    is_back "$WORK/back"
}
skopeo_list() { says '"1"' skopeo list-tags "docker://$REPOSITORY"; }
skopeo_copy() {
    skopeo copy --quiet --preserve-digests "docker://$1" "docker://$2"
    skopeo_pull "$2"
}
skopeo_delete() {
    skopeo delete "docker://$1"
    is_gone skopeo inspect "docker://$1"
}

prepare_crane() { need_crane; }
crane_login() { crane auth login "$HOST" --username "$USER_NAME" --password-stdin <<<"$PASSWORD"; }
crane_push() { crane push "$WORK/image" "$1"; }
crane_pull() {
    rm -rf "$WORK/back"
    crane pull --format oci "$1" "$WORK/back"
    is_back "$WORK/back"
}
crane_list() { says '^1$' crane ls "$REPOSITORY"; }
crane_copy() {
    crane copy "$1" "$2"
    crane validate --remote "$2"
}
crane_delete() {
    crane delete "${1%:*}@$DIGEST"
    is_gone crane digest "$1"
}

prepare_oras() {
    need_tool oras "$ORAS"
    echo '{"made": "here"}' >"$WORK/sbom.json"
}
oras_login() { says 'Login Succeeded' oras login -u "$USER_NAME" --password-stdin "$HOST" <<<"$PASSWORD"; }
oras_push() { (cd "$WORK" && oras push --artifact-type application/vnd.example.tool "$1" sbom.json:application/json); }
oras_pull() {
    rm -rf "$WORK/back"
    oras pull --output "$WORK/back" "$1"
    cmp "$WORK/sbom.json" "$WORK/back/sbom.json"
}
oras_list() { says '^1$' oras repo tags "$REPOSITORY"; }
oras_attach() {
    (cd "$WORK" && oras attach --artifact-type application/vnd.example.sbom "$1" sbom.json:application/json)
    says 'application/vnd.example.sbom' oras discover "$1"
}
oras_copy() {
    oras cp --recursive "$1" "$2"
    says 'application/vnd.example.sbom' oras discover "$2"
}
oras_delete() {
    oras manifest delete --force "${1%:*}@$(oras resolve "$1")"
    is_gone oras manifest fetch "$1"
}

prepare_regctl() {
    need_tool regctl "$REGCTL"
    echo '{"made": "here"}' >"$WORK/sbom.json"
}
regctl_login() { regctl registry login "$HOST" --user "$USER_NAME" --pass-stdin <<<"$PASSWORD"; }
regctl_push() { regctl image copy "ocidir://$WORK/image:1" "$1"; }
regctl_pull() {
    rm -rf "$WORK/back"
    regctl image copy "$1" "ocidir://$WORK/back:1"
    same "$DIGEST" "$(regctl image digest "ocidir://$WORK/back:1")"
}
regctl_list() { says '^1$' regctl tag ls "$REPOSITORY"; }
regctl_attach() {
    regctl artifact put --artifact-type application/vnd.example.sbom --subject "$1" --file "$WORK/sbom.json"
    says 'application/vnd.example.sbom' regctl artifact list "$1"
}
regctl_copy() {
    regctl image copy --referrers "$1" "$2"
    says 'application/vnd.example.sbom' regctl artifact list "$2"
}
# A registry that can't delete tags: regctl pushes another manifest to the tag, and deletes that.
regctl_delete() {
    regctl tag rm "$1"
    is_gone regctl image digest "$1"
}

prepare_helm() {
    need_tool helm "$HELM"
    mkdir -p "$WORK/chart/templates"
    printf 'apiVersion: v2\nname: web\nversion: 0.1.0\n' >"$WORK/chart/Chart.yaml"
    helm package --destination "$WORK" "$WORK/chart" >/dev/null
}
helm_login() { says 'Login Succeeded' helm registry login "$HOST" --username "$USER_NAME" --password-stdin <<<"$PASSWORD"; }
helm_push() { says 'Digest: sha256' helm push "$WORK/web-0.1.0.tgz" "oci://$REPOSITORY"; }
helm_pull() {
    rm -rf "$WORK/back"
    mkdir "$WORK/back"
    helm pull "oci://$REPOSITORY/web" --version 0.1.0 --destination "$WORK/back"
    cmp "$WORK/web-0.1.0.tgz" "$WORK/back/web-0.1.0.tgz"
}

prepare_cosign() {
    need_tool cosign "$COSIGN"
    export COSIGN_PASSWORD=
    (cd "$WORK" && cosign generate-key-pair) >"$WORK/cosign.log" 2>&1
    echo '{"made": "here"}' >"$WORK/predicate.json"
}
cosign_login() { cosign login "$HOST" --username "$USER_NAME" --password "$PASSWORD"; }
cosign_push() {
    skopeo copy --quiet --preserve-digests --dest-creds "$USER_NAME:$PASSWORD" "oci:$WORK/image:1" "docker://$1"
    cosign sign --yes --tlog-upload=false --key "$WORK/cosign.key" "${1%:*}@$DIGEST"
}
cosign_pull() { cosign verify --insecure-ignore-tlog --key "$WORK/cosign.pub" "$1"; }
cosign_attach() {
    cosign attest --yes --tlog-upload=false --key "$WORK/cosign.key" --predicate "$WORK/predicate.json" "${1%:*}@$DIGEST"
    cosign verify-attestation --insecure-ignore-tlog --key "$WORK/cosign.pub" "$1"
    says 'Attestations' cosign tree "$1"
}
cosign_copy() {
    cosign copy "$1" "$2"
    cosign_pull "$2"
}
cosign_delete() {
    cosign clean --force "$1"
    refused 'no signatures found|no matching signatures' cosign_pull "$1"
}

# try CLIENT OPERATION UPSTREAM
try() {
    local before=$failed family=${FAMILY[$1]:-$1}
    HOST=${hosts[$3]}
    REPOSITORY=$HOST/shop/$1
    check "$1: $2, $3" "${family}_$2" "$REPOSITORY:1" "$REPOSITORY-copy:1"
    if [ "$failed" = "$before" ]; then
        passes "$1" "$2" "$3"
    elif [ "$(type -t "load_$family")" = function ]; then
        # What failed may have removed the image that the next operation begins with.
        "load_$family"
    fi
}

try_all() {
    local upstream operation
    for upstream in "${VARIANTS[@]}"; do
        for operation in "${CASES[@]}"; do
            has_no_command "$1" "$operation" || try "$1" "$operation" "$upstream"
        done
    done
}

need_distribution
upstream_certificate
make_certificate "$WORK/certs"
make_htpasswd "$WORK/htpasswd"
make_image "$WORK/image" 2
DIGEST=$(manifest_digest "$WORK/image")
skopeo copy --quiet "oci:$WORK/image:1" "docker-archive:$WORK/image.docker.tar:$LOCAL"
skopeo copy --quiet "oci:$WORK/image:1" "oci-archive:$WORK/image.oci.tar:$LOCAL"
for upstream in "${VARIANTS[@]}"; do start_upstream "$upstream"; done
export SSL_CERT_FILE=$CA
for CLIENT in "${ROWS[@]}"; do
    if [ "$(type -t "prepare_$CLIENT")" = function ]; then "prepare_$CLIENT"; fi
    try_all "$CLIENT"
done
table >"$WORK/table"
[ -z "${VERBOSE:-}" ] || cat "$WORK/table"
check "the table is that of tests/README.md" is_the_table_of_the_readme

done_checking
