#!/usr/bin/env bash
# The bytes on the wire: the answers to each client, seen by curl and by requests that no good client sends.
source "$(dirname "$0")/lib.sh"

start_registry
SERVER_KEYS='external_url = "https://registry.example"'
start_gateway
make_image "$WORK/image"
LOGIN=(-u "$USER_NAME:$PASSWORD")
WRONG=(-u "$USER_NAME:wrong")
REFUSAL='{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}'
cd "$WORK" || exit

## What curl asks

# answer ARGUMENTS... PATH: the status; the body is left in `body`, the header lines in `headers`.
answer() { gateway_curl -o body -D headers -w '%{http_code}' "$@"; }
header() { tr -d '\r' <headers | sed -n "s/^$1: //Ip"; }
code() { jq -r '.errors[0].code' body; }

# gives STATUS[ CODE] ARGUMENTS... PATH: that status, and an OCI error body with that code. Both are regular expressions.
gives() {
    local status=${1% *} code=${1#* }
    shift
    has "^($status)\$" "$(answer "$@")" && { [ "$code" = "$status" ] || is_error "$code"; }
}

is_error() {
    has '^application/json' "$(header content-type)" && has "^($1)\$" "$(code)" &&
        same "$(stat -c %s body)" "$(header content-length)"
}

## Logging in

the_refusal_to_the_byte() {
    gives 401 "$@"
    same "$REFUSAL" "$(cat body)"
    same "Basic realm=\"$REALM\"" "$(header www-authenticate)"
    same registry/2.0 "$(header docker-distribution-api-version)"
    is_error UNAUTHORIZED
}

head_has_no_body() {
    gives 401 --head /v2/
    same "Basic realm=\"$REALM\"" "$(header www-authenticate)"
    same 0 "$(gateway_curl -o /dev/null --head -w '%{size_download}' /v2/)"
}

the_same_bytes_for_every_user() {
    gives 401 "${WRONG[@]}" /v2/shop/web/manifests/1
    cp body wrong
    gives 401 -u nobody:wrong /v2/shop/web/manifests/1
    cmp body wrong
}

a_repository_says_what_it_lacks() {
    gives '401 UNAUTHORIZED' /v2/shop/web/manifests/1
    same '{"Type":"repository","Class":"","Name":"shop/web","Action":"pull"}' "$(jq -c '.errors[0].detail[0]' body)"
}

the_version_page() {
    gives 200 "${LOGIN[@]}" /v2/
    same '{}' "$(tr -d '\n' <body)"
    same registry/2.0 "$(header docker-distribution-api-version)"
    gives 200 "${LOGIN[@]}" /v2
}

one_connection_serves_many() {
    same '1 0' "$(curl -sS --cacert "$CA" "${LOGIN[@]}" -o /dev/null -o /dev/null -w '%{num_connects}\n' \
        "https://$HOST/v2/" "https://$HOST/v2/_catalog" | paste -sd' ')"
}

## Which hosts and paths it answers

garbage_is_not_found() {
    local path
    for path in / /v1/ /v3/ /v2/x /favicon.ico /v2/shop/web /v2/shop/web/manifests/ /v2/shop/web/blobs/ //v2/ /v2//shop/web/tags/list \
        /v2/shop/../web/tags/list /v2/shop/%2e%2e/web/tags/list /v2/shop%2Fweb/tags/list /v2/Shop/web/tags/list /healthz /metrics; do
        gives "40[04] [A-Z_]+" --path-as-is "${LOGIN[@]}" "$path" || { echo "at $path"; return 1; }
    done
}

## Blobs

# upload REPOSITORY FILE CURL-OPTIONS...: as dockerd does, POST, a chunked PATCH, PUT; prints the digest.
upload() {
    local repository=$1 file=$2 digest location
    shift 2
    digest=sha256:$(sha256sum <"$file" | cut -d' ' -f1)
    gives 202 "$@" "${LOGIN[@]}" -X POST -d '' "/v2/$repository/blobs/uploads/"
    location=$(location_path "$repository")
    gives 202 "$@" "${LOGIN[@]}" -X PATCH -H 'Content-Type: application/octet-stream' -H 'Content-Length:' \
        -H 'Expect:' -T - "$location" <"$file"
    location=$(location_path "$repository")
    gives 201 "$@" "${LOGIN[@]}" -X PUT -d '' "$(with_digest "$location" "$digest")"
    same "$digest" "$(header docker-content-digest)"
    echo "$digest" >digest
}

with_digest() { case $1 in *\?*) echo "$1&digest=$2" ;; *) echo "$1?digest=$2" ;; esac; }

# The path of the last answer's Location, which has to be an upload of REPOSITORY in the client's own names.
location_path() {
    local path
    path=$(header location | sed 's,^https://[^/]*,,')
    has "^/v2/$1/blobs/uploads/[^/]+" "$path" >&2 && echo "$path"
}

uploads_and_reads_back() {
    head -c 20000000 /dev/urandom >large
    upload "$1" large "${@:2}"
    gateway_curl -f "${@:2}" "${LOGIN[@]}" "/v2/$1/blobs/$(cat digest)" | cmp - large
}

serves_ranges() {
    local blob
    blob=/v2/shop/web/blobs/$(cat digest)
    gives 206 "${LOGIN[@]}" -H 'Range: bytes=10-19' "$blob"
    same 'bytes 10-19/20000000' "$(header content-range)"
    cmp body <(tail -c +11 large | head -c 10)
    gives 206 "${LOGIN[@]}" -H 'Range: bytes=-5' "$blob"
    cmp body <(tail -c 5 large)
    gives 206 "${LOGIN[@]}" -H 'Range: bytes=19999990-' "$blob"
    same 10 "$(stat -c %s body)"
    gives 416 "${LOGIN[@]}" -H 'Range: bytes=20000000-' "$blob"
}

a_refused_mount_is_an_upload() {
    gives 202 "${LOGIN[@]}" -X POST -d '' "/v2/shop/new/blobs/uploads/?mount=sha256:$(printf %064d 1)&from=shop/none"
    location_path shop/new
    gives 202 "${LOGIN[@]}" -X POST -d '' "/v2/shop/new/blobs/uploads/?mount=sha256:$(printf %064d 1)"
    location_path shop/new
}

expect_is_answered_before_the_body() {
    same '401 0' "$(gateway_curl --http1.1 "${WRONG[@]}" -o body -D headers -w '%{http_code} %{size_upload}' -X PATCH \
        -H 'Expect: 100-continue' --expect100-timeout 20 --data-binary @large /v2/shop/web/blobs/uploads/some)"
    ! grep -q '100 Continue' headers
}

# 200 MB to a gateway that stops reading: the answer arrives all the same.
a_refused_upload_reads_its_answer() {
    head -c 200000000 /dev/zero >huge
    gives 401 "$@" "${WRONG[@]}" -X PATCH -H 'Expect:' -H 'Content-Type: application/octet-stream' -T huge /v2/shop/web/blobs/uploads/some
    same "$(jq -c .errors[0].code <<<"$REFUSAL")" "$(jq -c .errors[0].code body)"
    rm huge
}

## Namespaces

ns_selects_an_upstream() {
    crane_free_push team/web
    gives 200 "${LOGIN[@]}" "/v2/web/tags/list?ns=team.example"
    same team.example "$(header oci-namespace)"
    gives 200 "${LOGIN[@]}" "/team/v2/web/tags/list"
    gives 200 "${LOGIN[@]}" "/v2/team/web/tags/list"
    same team/web "$(jq -r .name body)"
}

crane_free_push() {
    skopeo copy --quiet --dest-cert-dir "$(trust_dir)" --dest-creds "$USER_NAME:$PASSWORD" "oci:$WORK/image:1" "docker://$HOST/$1:1"
}

tags_are_listed() {
    local tag
    for tag in a b c d; do skopeo_tag "$tag"; done
    pages '/v2/team/web/tags/list?n=2' '.tags[]' '/v2/team/web/tags/list'
    same '1 a b c d' "$(sort names | paste -sd' ')"
}

catalogue_pages_link_to_each_other() {
    pages '/v2/_catalog?n=1' '.repositories[]' /v2/_catalog
    grep -qx shop/web names
    grep -qx team/web names
}

# pages PATH FILTER NEXT: collects what FILTER takes from each page in `names`; the links lead to NEXT.
pages() {
    local path=$1 count=0
    : >names
    while [ -n "$path" ]; do
        gives 200 "${LOGIN[@]}" "$path"
        jq -r "$2" body >>names
        path=$(header link | sed -n 's/^<\(https:\/\/[^/]*\)\?\([^>]*\)>; *rel="\?next"\?$/\2/p')
        [ -z "$path" ] || has "^$3\\?" "$path"
        count=$((count + 1))
        [ $count -lt 50 ]
    done
}

skopeo_tag() {
    skopeo copy --quiet --src-cert-dir "$(trust_dir)" --dest-cert-dir "$(trust_dir)" --src-creds "$USER_NAME:$PASSWORD" \
        --dest-creds "$USER_NAME:$PASSWORD" "docker://$HOST/team/web:1" "docker://$HOST/team/web:$1"
}

## Requests that smuggle

# raw_gives STATUS [--plain]: the request on standard input gets that status, a regular expression, or `closed`.
raw_gives() { has "^(HTTP/1\.[01] ($1)|closed)" "$(python3 "$CLIENTS/raw.py" "$HOST" "$CA" "${@:2}")"; }

both_lengths() {
    raw_gives 400 <<END
POST /v2/shop/web/blobs/uploads/ HTTP/1.1
Host: $HOST
Authorization: Basic $(printf %s "$USER_NAME:$PASSWORD" | base64)
Transfer-Encoding: chunked
Content-Length: 5

0

END
}

two_hosts() {
    raw_gives 400 <<END
GET /v2/ HTTP/1.1
Host: $HOST
Host: $HOST

END
}

no_host() {
    raw_gives 400 <<END
GET /v2/ HTTP/1.1

END
}

a_foreign_target() {
    raw_gives '400|421' <<END
GET http://elsewhere.example/v2/ HTTP/1.1
Host: elsewhere.example

END
}

two_lengths() {
    raw_gives 400 <<END
POST /v2/shop/web/blobs/uploads/ HTTP/1.1
Host: $HOST
Content-Length: 5
Content-Length: 6

hello!
END
}

plain_http_on_the_tls_port() {
    raw_gives '[34]..' --plain <<END
GET /v2/ HTTP/1.1
Host: $HOST

END
}

## The upstream is gone

a_dead_upstream() {
    stop "$REGISTRY_PID"
    gives '502|504 [A-Z_]+' "${LOGIN[@]}" /v2/shop/web/tags/list
    gives 200 "${LOGIN[@]}" /v2/
}

for http in --http1.1 --http2; do
    check "the 401 to the byte ($http)" the_refusal_to_the_byte $http /v2/
    check "a wrong password gets the same 401 ($http)" the_refusal_to_the_byte $http "${WRONG[@]}" /v2/
    check "push and read back in chunks ($http)" uploads_and_reads_back shop/web $http
    check "a refused upload reads its answer ($http)" a_refused_upload_reads_its_answer $http
done
check "ranges" serves_ranges
check "HTTP/2 is spoken" same 2 "$(gateway_curl -o /dev/null -w '%{http_version}' /v2/)"
check "TLS 1.2 is spoken" gives 401 --tls-max 1.2 /v2/
check "TLS 1.1 is not" refused 'curl: \((35|56)\)' gateway_curl --ciphers DEFAULT@SECLEVEL=0 --tlsv1.1 --tls-max 1.1 /v2/
check "HEAD is refused without a body" head_has_no_body
check "an unknown user gets the same bytes" the_same_bytes_for_every_user
check "a malformed login is refused" gives '401 UNAUTHORIZED' -H 'Authorization: Basic !!!' /v2/
check "another scheme is refused" gives '401 UNAUTHORIZED' -H 'Authorization: Bearer abc' /v2/
check "a repository says which right is missing" a_repository_says_what_it_lacks
check "/v2/ and /v2 with a login" the_version_page
check "a connection serves many requests" one_connection_serves_many
check "an unknown host is misdirected" gives 421 "${LOGIN[@]}" -H 'Host: elsewhere.example' --http1.1 /v2/
check "an unknown authority is misdirected" gives 421 "${LOGIN[@]}" -H 'Host: elsewhere.example' --http2 /v2/
check "the external name is known" gives 200 "${LOGIN[@]}" -H 'Host: registry.example' /v2/
check "paths outside the grammar" garbage_is_not_found
check "an invalid name" gives '400 NAME_INVALID' "${LOGIN[@]}" /v2/shop/We_b/tags/list
check "an invalid digest" gives '400 DIGEST_INVALID' "${LOGIN[@]}" /v2/shop/web/blobs/sha256:abc
check "an invalid tag is an unknown manifest" gives '404 MANIFEST_UNKNOWN' "${LOGIN[@]}" /v2/shop/web/manifests/.none
check "an unknown manifest" gives '404 MANIFEST_UNKNOWN' "${LOGIN[@]}" /v2/shop/web/manifests/none
check "an unknown blob" gives '404 BLOB_UNKNOWN' "${LOGIN[@]}" "/v2/shop/web/blobs/sha256:$(printf %064d 1)"
check "a method that is not one" gives '405 UNSUPPORTED' "${LOGIN[@]}" -X PUT -d '' /v2/shop/web/tags/list
check "an upload under a prefix stays there" uploads_and_reads_back team/web
check "a mount that cannot be is an upload" a_refused_mount_is_an_upload
check "Expect: 100-continue is answered before the body" expect_is_answered_before_the_body
check "ns selects an upstream" ns_selects_an_upstream
check "an unknown ns" gives '404 NAME_UNKNOWN' "${LOGIN[@]}" '/v2/web/tags/list?ns=elsewhere.example'
check "ns and prefix that disagree" gives 400 "${LOGIN[@]}" '/team/v2/web/tags/list?ns=registry'
check "tags are listed" tags_are_listed
check "pages of the catalogue link to each other" catalogue_pages_link_to_each_other
check "both lengths are refused" both_lengths
check "two different lengths are refused" two_lengths
check "two hosts are refused" two_hosts
check "no host is refused" no_host
check "a foreign target is refused" a_foreign_target
check "plain HTTP on the TLS port is answered or closed" plain_http_on_the_tls_port
check "health is on the admin listener" curl -fsS -o /dev/null "http://$ADMIN/healthz"
check "a dead upstream is a 502 or 504" a_dead_upstream

done_checking
