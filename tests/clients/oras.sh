#!/usr/bin/env bash
# Artifacts and what refers to them, through the demo: oras's own library, and the media types of helm and cosign.
source "$(dirname "$0")/lib.sh"

need_artifact
need_crane
start_demo
demo_ca
export SSL_CERT_FILE=$CA ARTIFACT_USER=$USER_NAME ARTIFACT_PASSWORD=$PASSWORD
SBOM=application/vnd.example.sbom
cd "$WORK" || exit
echo '{"made": "here"}' >sbom.json
echo 'signature' >signature
echo '{"name": "web", "version": "0.1.0"}' >config.json
head -c 9000000 /dev/urandom >web-0.1.0.tgz

wrong_password() { ARTIFACT_PASSWORD=wrong artifact tags "$HOST/art/tool"; }
anonymous_lists_tags() { ARTIFACT_USER='' ARTIFACT_PASSWORD='' artifact tags "$HOST/art/tool"; }

pushes_and_pulls() {
    artifact push "$HOST/art/tool:1" application/vnd.example.tool web-0.1.0.tgz=application/gzip sbom.json=application/json >pushed
    artifact pull "$HOST/art/tool:1" "$WORK/pulled" >fetched
    same "$(cat pushed)" "$(cat fetched)"
    cmp web-0.1.0.tgz pulled/web-0.1.0.tgz
    cmp sbom.json pulled/sbom.json
}

attaches() {
    artifact attach "$HOST/art/tool:1" "$SBOM" sbom.json=application/json >sbom.digest
    artifact attach "$HOST/art/tool:1" application/vnd.example.signature signature=text/plain >signature.digest
    artifact discover "$HOST/art/tool:1" >referrers
    grep -q "$(cat sbom.digest)" referrers
    grep -q "$(cat signature.digest)" referrers
    same 2 "$(wc -l <referrers)"
}

discovers_by_type() { same "$(cat sbom.digest) $SBOM" "$(artifact discover "$HOST/art/tool:1" "$SBOM")"; }

# By the referrers API, not by the fallback tag that the library would keep for a registry without it.
keeps_no_fallback_tag() { same 1 "$(artifact tags "$HOST/art/tool")"; }

pulls_a_referrer() {
    artifact pull "$HOST/art/tool@$(cat signature.digest)" "$WORK/signed"
    cmp signature signed/signature
}

copies_with_referrers() {
    artifact copy "$HOST/art/tool:1" "$HOST/art/mirror:1"
    same 2 "$(artifact discover "$HOST/art/mirror:1" | wc -l)"
}

charts_keep_their_media_types() {
    artifact chart "$HOST/charts/web:0.1.0" config.json=application/vnd.cncf.helm.config.v1+json \
        web-0.1.0.tgz=application/vnd.cncf.helm.chart.content.v1.tar+gzip >chart.digest
    raw "charts/web/manifests/0.1.0" >chart.json
    same application/vnd.cncf.helm.config.v1+json "$(jq -r .config.mediaType chart.json)"
    same application/vnd.cncf.helm.chart.content.v1.tar+gzip "$(jq -r '.layers[0].mediaType' chart.json)"
    same "$(cat chart.digest)" "sha256:$(sha256sum <chart.json | cut -d' ' -f1)"
    artifact pull "$HOST/charts/web:0.1.0" "$WORK/chart"
    cmp web-0.1.0.tgz chart/web-0.1.0.tgz
}

raw() {
    gateway_curl -f -u "$USER_NAME:$PASSWORD" -H 'Accept: application/vnd.oci.image.manifest.v1+json' "/v2/$1"
}

# cosign keeps a signature under a tag made of the image's digest.
signatures_by_tag() {
    local tag
    tag=$(tr : - <chart.digest).sig
    artifact push "$HOST/charts/web:$tag" application/vnd.dev.cosign.artifact.sig.v1+json \
        signature=application/vnd.dev.cosign.simplesigning.v1+json
    artifact tags "$HOST/charts/web" | grep -qx "$tag"
    artifact pull "$HOST/charts/web:$tag" "$WORK/sig"
    cmp signature sig/signature
}

lists_repositories() {
    artifact repositories "$HOST" >repositories
    grep -qx art/tool repositories
    grep -qx charts/web repositories
}

crane_reads_the_demo() {
    crane auth login "$HOST" --username "$USER_NAME" --password-stdin <<<"$PASSWORD"
    crane catalog "$HOST"
    crane validate --remote "$HOST/$(crane catalog "$HOST" | grep -vE '^(art|charts)/' | head -n 1)"
}

check "without a login it is refused" refused '401|nauthorized|credential' anonymous_lists_tags
check "a wrong password is refused" refused '401|nauthorized' wrong_password
check "the demo's image is whole" crane_reads_the_demo
check "push and pull an artifact" pushes_and_pulls
check "attach and discover" attaches
check "discover by artifact type" discovers_by_type
check "no fallback tag is kept" keeps_no_fallback_tag
check "pull what refers to it" pulls_a_referrer
check "copy with all that refers to it" copies_with_referrers
check "a chart keeps helm's media types" charts_keep_their_media_types
check "a signature by cosign's tag" signatures_by_tag
check "list repositories" lists_repositories

done_checking
