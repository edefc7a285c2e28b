#!/usr/bin/env bash
# What is in deploy/, by the tools that it is for: systemd, Compose, Helm, Prometheus, nginx, haproxy, hadolint; the workflows
# of GitHub, by actionlint.
source "$(dirname "$0")/lib.sh"

DEPLOY=$ROOT/deploy
CHART=$DEPLOY/helm/dockgate
KUBERNETES=1.34.0
COMPOSE=github.com/docker/compose/v2/cmd
COMPOSE_VERSION=v2.40.3
SCHEMAS=$TOOLS/kubernetes-$KUBERNETES
ACTIONLINT=github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
KUBECONFORM=github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0

# What a machine that follows the README has.
installed_as_a_service() {
    ROOTFS=$WORK/root
    mkdir -p "$ROOTFS/usr/local/bin" "$ROOTFS/etc/systemd/system"
    cp "$DOCKGATE" "$ROOTFS/usr/local/bin/dockgate"
    cp "$DEPLOY"/systemd/dockgate.{service,socket} "$ROOTFS/etc/systemd/system/"
}

units_are_valid() {
    systemd-analyze verify --man=no --recursive-errors=one "$DEPLOY/systemd/dockgate.service" "$DEPLOY/systemd/dockgate.socket" \
        >"$WORK/verify" 2>&1 || true
    # The binary is not installed here; nothing else may be wrong.
    ! grep -v 'dockgate is not executable\|Unit configuration has fatal error\|^$' "$WORK/verify"
}

# 0 is the best and 10 the worst.
the_service_is_confined() {
    local exposure
    exposure=$(systemd-analyze security --offline=true --root="$ROOTFS" --no-pager dockgate.service |
        sed -n 's/^→ Overall exposure level for dockgate.service: \([0-9.]*\).*/\1/p')
    awk -v exposure="$exposure" 'BEGIN { exit !(exposure != "" && exposure < 2) }'
}

has_compose() { docker compose version >/dev/null 2>&1; }
compose() { if has_compose; then docker compose "$@"; else docker-compose "$@"; fi; }

compose_is_valid() {
    REGISTRY_PASSWORD=password compose -f "$DEPLOY/compose.yaml" config >"$WORK/compose.json" --format json
    same true "$(jq -r '.services.dockgate.read_only' "$WORK/compose.json")"
    same true "$(jq -r '.networks.inside.internal' "$WORK/compose.json")"
}

replicas_compose() {
    REGISTRY_PASSWORD=password FLEET_SECRET=0123456789abcdef0123456789abcdef STORE_KEY=storekey \
        compose -f "$DEPLOY/replicas/compose.yaml" config --format json
}
the_compose_of_replicas_is_valid() {
    replicas_compose >"$WORK/replicas.json"
    same 3 "$(jq -r '.services.dockgate.scale // .services.dockgate.deploy.replicas' "$WORK/replicas.json")"
    same true "$(jq -r '.networks.inside.internal' "$WORK/replicas.json")"
    same null "$(jq -r '.services.seaweedfs.ports' "$WORK/replicas.json")"
    haproxy -c -f "$DEPLOY/replicas/shared-haproxy.cfg"
}

# With the files that the services before it make.
the_configuration_of_replicas_is_valid() {
    local run=$WORK/gateway
    mkdir -p "$run"
    make_certificate "$run/certs"
    make_htpasswd "$run/htpasswd"
    sed "s|/run/gateway|$run|g; s|/var/lib/dockgate|$WORK/replica|g" "$DEPLOY/replicas/shared.toml" >"$WORK/shared.toml"
    FLEET_SECRET=0123456789abcdef0123456789abcdef STORE_KEY=storekey "$DOCKGATE" check --config "$WORK/shared.toml" >"$WORK/check"
    grep 's3://dockgate/cache at http://seaweedfs:8333' "$WORK/check"
    ! grep -q 'storekey' "$WORK/check"
}

compose_wants_a_password() {
    refused 'REGISTRY_PASSWORD' compose --env-file /dev/null -f "$DEPLOY/compose.yaml" config
}

lints() { helm lint --strict "$CHART" -f "$1"; }

renders() {
    helm template dockgate "$CHART" --kube-version "$KUBERNETES" --namespace registry -f "$1" "${@:2}" >"$WORK/rendered.yaml"
    fits_kubernetes -skip Certificate,ServiceMonitor,PrometheusRule "$WORK/rendered.yaml"
}

fits_kubernetes() { kubeconform -strict -summary -schema-location "$SCHEMAS/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"; }

# A check that finds nothing wrong with anything is worth nothing.
a_wrong_field_is_found() {
    renders "$CHART/examples/internal-registry.yaml"
    sed -i 's/^  replicas:/  replica:/' "$WORK/rendered.yaml"
    refused "additional properties 'replica' not allowed" fits_kubernetes -skip Certificate,ServiceMonitor,PrometheusRule "$WORK/rendered.yaml"
}

# The configuration in the ConfigMap is one that dockgate takes.
its_configuration_is_valid() {
    local secrets=$WORK/secrets
    renders "$1"
    mkdir -p "$secrets/dockgate" "$secrets/tls"
    make_certificate "$WORK/certs"
    cp "$CERTIFICATE" "$secrets/tls/tls.crt"
    cp "$KEY" "$secrets/tls/tls.key"
    make_htpasswd "$secrets/dockgate/htpasswd"
    make_htpasswd "$secrets/dockgate/operators"
    "$DOCKGATE" secret >"$secrets/dockgate/secret"
    echo dockgate >"$secrets/dockgate/store-access-key"
    echo storekey >"$secrets/dockgate/store-secret-key"
    python3 - "$WORK/rendered.yaml" <<'END' | sed "s|/run/secrets|$secrets|g; s|/var/lib/dockgate|$WORK/cache|g" >"$WORK/chart.toml"
import sys
text = open(sys.argv[1]).read()
document = next(part for part in text.split("\n---") if "kind: ConfigMap" in part)
lines = document.split("dockgate.toml: |\n", 1)[1].split("\n")
for line in lines:
    if line and not line.startswith("    "):
        break
    print(line[4:])
END
    "$DOCKGATE" check --config "$WORK/chart.toml"
}

replicas_find_each_other() {
    renders "$CHART/examples/docker-hub-cache.yaml" --set 'networkPolicy.to[0].ipBlock.cidr=192.0.2.0/24'
    grep -q 'name: dockgate-peers' "$WORK/rendered.yaml"
    grep -q 'publishNotReadyAddresses: true' "$WORK/rendered.yaml"
    grep -q 'members = "dns://dockgate-peers:5003"' "$WORK/rendered.yaml"
    grep -q '{ name: peers, containerPort: 5003 }' "$WORK/rendered.yaml"
    # From the others, and to them.
    same 2 "$(grep -c 'ports: \[{ port: peers }\]' "$WORK/rendered.yaml")"
    renders "$CHART/examples/internal-registry.yaml"
    same 0 "$(grep -c peers "$WORK/rendered.yaml")"
    refused 'cache.enabled' helm template dockgate "$CHART" --kube-version "$KUBERNETES" \
        -f "$CHART/examples/internal-registry.yaml" --set peers.enabled=true
}

the_cache_gets_volumes() {
    renders "$CHART/examples/docker-hub-cache.yaml"
    grep -q 'kind: StatefulSet' "$WORK/rendered.yaml"
    renders "$CHART/examples/docker-hub-cache.yaml" --set cache.persistent=false
    grep -q 'kind: Deployment' "$WORK/rendered.yaml"
}

the_cache_gets_a_store() {
    renders "$CHART/examples/shared-cache.yaml"
    grep -q 'url = "s3://dockgate/cache"' "$WORK/rendered.yaml"
    grep -q 'secret_key = "${file:/run/secrets/dockgate/store-secret-key}"' "$WORK/rendered.yaml"
    renders "$CHART/examples/shared-cache.yaml" --set cache.store.accessKeyKey= --set serviceAccountName=cache
    grep -q 'serviceAccountName: cache' "$WORK/rendered.yaml"
    same 0 "$(grep -c 'credentials =' "$WORK/rendered.yaml")"
    renders "$CHART/examples/docker-hub-cache.yaml"
    same 0 "$(grep -c 'cache.store' "$WORK/rendered.yaml")"
}

a_url_is_wanted() { refused 'externalUrl' helm template dockgate "$CHART" --kube-version "$KUBERNETES"; }

alerts_are_valid() {
    promtool check rules "$DEPLOY/monitoring/alerts.yml"
    promtool check config --syntax-only "$DEPLOY/monitoring/prometheus.yml"
}

# In the folder of the rules: the test names them by a relative path.
alerts_fire() { (cd "$DEPLOY/monitoring" && promtool test rules alerts_test.yml); }

metrics_are_in_order() { curl -fsS "http://$ADMIN/metrics" | promtool check metrics; }

start_prometheus() {
    PROMETHEUS=127.0.0.1:$(free_port)
    sed "s|127.0.0.1:5001|$ADMIN|; s|scrape_interval: 15s|scrape_interval: 1s|; s|rule_files: .*||" \
        "$DEPLOY/monitoring/prometheus.yml" >"$WORK/prometheus.yml"
    start prometheus prometheus --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/prometheus" \
        --web.listen-address="$PROMETHEUS"
    started "$STARTED" 20 has_scraped
}

query() { curl -fsS --get "http://$PROMETHEUS/api/v1/query" --data-urlencode "query=$1"; }
has_scraped() { [ "$(query 'count_over_time(up{job="dockgate"}[1m]) > 5' | jq '.data.result | length')" = 1 ]; }

# Every query of the dashboard has data, with what Grafana puts in for its variables.
the_dashboard_shows_data() {
    local expression empty=0
    while IFS= read -r expression; do
        expression=${expression//'$__rate_interval'/10s}
        expression=${expression//'$__range'/1m}
        expression=${expression//'$instance'/.*}
        [ "$(query "$expression" | jq '.data.result | length')" != 0 ] || { echo "no data: $expression"; empty=1; }
    done < <(jq -r '.. | objects | .expr? // empty' "$DEPLOY/monitoring/grafana.json")
    return $empty
}

the_dockerfiles_are_clean() {
    # DL3008 asks for versions of Debian's packages, which vanish from its mirrors.
    hadolint --ignore DL3008 "$DEPLOY/Dockerfile" "$DEPLOY/Dockerfile.release"
}

balancers_take_their_files() {
    local certs=$WORK/certs
    make_certificate "$certs"
    cat "$CERTIFICATE" "$KEY" >"$certs/domain.pem"
    sed "s|/etc/nginx/certs|$certs|; s|listen 443|listen 127.0.0.1:$(free_port)|; s|http2 on;||" "$DEPLOY/replicas/nginx.conf" >"$WORK/nginx.conf"
    nginx -t -p "$WORK" -c "$WORK/nginx.conf" -g "pid $WORK/nginx.pid; error_log $WORK/nginx.log;"
    sed "s|/etc/haproxy/certs|$certs|" "$DEPLOY/replicas/haproxy.cfg" >"$WORK/haproxy.cfg"
    haproxy -c -f "$WORK/haproxy.cfg"
}

# In an empty folder, with the commands in the comment at the head of a file of config/, as it is written there.
a_head_can_be_followed() {
    local folder=$WORK/head
    rm -rf "$folder"
    mkdir -p "$folder/bin"
    cp "$ROOT/config/$1" "$folder/"
    ln -s "$DOCKGATE" "$folder/bin/dockgate"
    # What serves is for later, /var/lib is not this test's, and there is no terminal to ask for a password.
    sed -n 's/^#   //p' "$folder/$1" | grep -E '^(dockgate|echo) ' | grep -v '^dockgate --config\|client-config' |
        sed -E 's/^(dockgate user add .*)/\1 --password-stdin <<<password/' >"$folder/commands"
    grep -q '^dockgate check' "$folder/commands"
    (cd "$folder" && PATH=$folder/bin:$PATH bash -euo pipefail ./commands)
}

# The gateway's side is in the comment at the head; the job may do there what it does.
a_job_may_do_what_it_does() {
    local config=$WORK/oidc.toml
    {
        sed -n 's/^#   //p' "$DEPLOY/oidc/$1"
        printf '[[upstream]]\nurl = "http://127.0.0.1:5002"\nprefix = ""\n'
    } >"$config"
    cp "$WORK/platform.json" "$WORK/cluster-keys.json"
    says '^allowed' "$DOCKGATE" explain --config "$config" "${@:2}"
}

# With shellcheck, which looks into their steps.
the_workflows_are_clean() { actionlint "$ROOT"/.github/workflows/*.yml "$DEPLOY/oidc/github.yml"; }

completions_are_scripts() {
    "$DOCKGATE" completions bash >"$WORK/completions.bash"
    bash -n "$WORK/completions.bash"
    grep -q 'client-config' "$WORK/completions.bash"
}

# Kubernetes' own description of its API, which its Go module has.
need_schemas() { [ -d "$SCHEMAS" ] || alone schemas_are_made; }
schemas_are_made() {
    cd "$WORK"
    go_as_user go mod download -json "k8s.io/kubernetes@v$KUBERNETES"
    python3 "$ROOT/tests/support/kubernetes_schemas.py" "$(jq -r .Dir "$WORK/go.log")/api/openapi-spec/swagger.json" "$SCHEMAS.new"
    mv "$SCHEMAS.new" "$SCHEMAS"
}

# Where docker has no such plugin. `go install` refuses modules whose go.mod excludes versions.
need_compose() { has_compose || [ -x "$TOOLS/bin/docker-compose" ] || alone compose_is_built; }
compose_is_built() {
    mkdir -p "$WORK/compose"
    cd "$WORK/compose"
    printf 'module tools\n\ngo 1.24\n' >go.mod
    go_as_user go get "$COMPOSE@$COMPOSE_VERSION"
    go_as_user env CGO_ENABLED=0 go build -ldflags='-s -w' -o "$TOOLS/bin/docker-compose" "$COMPOSE"
}

need_tool helm "$HELM"
need_tool kubeconform "$KUBECONFORM"
need_tool actionlint "$ACTIONLINT"
need_schemas
need_program hadolint "$HADOLINT"
need_compose
installed_as_a_service

check "the systemd units are valid" units_are_valid
check "the systemd service is confined" the_service_is_confined
check "compose.yaml is valid" compose_is_valid
check "compose.yaml wants a password" compose_wants_a_password
check "the compose file of replicas is valid" the_compose_of_replicas_is_valid
check "the configuration of replicas is valid" the_configuration_of_replicas_is_valid
check "the chart wants a URL" a_url_is_wanted
for values in "$CHART"/examples/*.yaml; do
    use=$(basename "$values" .yaml)
    check "the chart lints for $use" lints "$values"
    check "the chart renders for $use" renders "$values"
    check "the chart's configuration for $use is valid" its_configuration_is_valid "$values"
done
check "the chart gives caches volumes" the_cache_gets_volumes
check "the chart has replicas find each other" replicas_find_each_other
check "the chart gives caches a store" the_cache_gets_a_store
check "a wrong field is found" a_wrong_field_is_found
check "the samples of Kubernetes are valid" fits_kubernetes "$DEPLOY"/kubernetes/{dockgate,audience}.yaml
check "the balancers take their files" balancers_take_their_files
for file in internal-registry docker-hub-cache build-farm; do
    check "the head of $file.toml can be followed" a_head_can_be_followed "$file.toml"
done
echo '{"keys": []}' >"$WORK/platform.json"
check "GitHub's job may push" a_job_may_do_what_it_does github.yml --user repo:acme/app push build/busybox
check "GitLab's job may push" a_job_may_do_what_it_does gitlab-ci.yml --user project:acme/app push acme/app
check "the pod may pull" a_job_may_do_what_it_does kubernetes.yaml --user pod:ci/builder pull ci/app
check "the workflows are clean" the_workflows_are_clean
check "completions are scripts" completions_are_scripts
check "the alert rules are valid" alerts_are_valid
check "the alerts fire" alerts_fire
check "the Dockerfiles are clean" the_dockerfiles_are_clean

gateway_config() {
    server_config
    UPSTREAM=$LIMITING UPSTREAM_KEYS="[upstream.cache]" upstream_config registry ""
    printf '\n[cache]\npath = "%s"\nmax_size = "1GiB"\nmin_free = "0%%"\n' "$WORK/store"
}

# nginx before the registry, which tells a rate limit as Docker Hub does.
start_limiting() {
    LIMITING=127.0.0.1:$(free_port)
    cat >"$WORK/limiting.conf" <<END
pid $WORK/limiting.pid;
error_log $WORK/limiting.log;
events {}
http {
    access_log off;
    add_header RateLimit-Limit "100;w=21600" always;
    add_header RateLimit-Remaining "76;w=21600" always;
    server { listen $LIMITING; location / { proxy_pass http://$REGISTRY; } }
}
END
    start limiting nginx -p "$WORK" -c "$WORK/limiting.conf" -g 'daemon off;'
    started "$STARTED" 30 curl -fsS "http://$LIMITING/v2/"
}

start_registry
start_limiting
start_gateway
gateway_curl -u "$USER_NAME:$PASSWORD" -o /dev/null /v2/shop/web/manifests/1
check "the metrics are in order" metrics_are_in_order
start_prometheus
check "every query of the dashboard has data" the_dashboard_shows_data

done_checking
