#!/usr/bin/env bash
# The gateway's own token service: what identity.sh does not ask of its clients, tokens to delete and for the catalog, and a
# robot that is revoked. Then docker-registry 2.8 and distribution 3, without a gateway before them, take the gateway's tokens.
source "$(dirname "$0")/lib.sh"
source "$CLIENTS/upstreams.sh"

need_crane
need_artifact
need_distribution
start_registry
start_gateway
make_image "$WORK/image" 8
LOGIN=$USER_NAME:$PASSWORD
TRUST=$(trust_dir)
export SSL_CERT_FILE=$CA

# All may pull from public, the user may do everything, the robot only push to ci.
cat >>"$WORK/dockgate.toml" <<END

[auth.token]
service = "$SERVICE"
issuer = "$ISSUER"

[[access]]
users = ["anonymous"]
repositories = ["public/**"]
actions = ["pull"]

[[access]]
users = ["$USER_NAME", "robot:ci"]
repositories = ["**"]
actions = ["*"]
END
stop "$GATEWAY"
run_gateway
"$DOCKGATE" token mint --config "$WORK/dockgate.toml" --user ci --access 'ci/**:pull,push' --ttl 1h >"$WORK/robot" 2>"$WORK/robot.said"
ROBOT=$(cat "$WORK/robot")
skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/public/web:1"
skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/web:1"

## Clients

asks_for_tokens() {
    has "^www-authenticate: Bearer realm=\"https://$HOST/token\",service=\"$SERVICE\"" \
        "$(curl -sS --cacert "$CA" -D - -o /dev/null "https://$HOST/v2/" | tr -d '\r' | sed 's/^W/w/; s/-A/-a/')"
}

skopeo_deletes() {
    skopeo copy --quiet --dest-cert-dir "$TRUST" --dest-creds "$LOGIN" "oci:$WORK/image:1" "docker://$HOST/shop/skopeo:1"
    skopeo delete --cert-dir "$TRUST" --creds "$LOGIN" "docker://$HOST/shop/skopeo:1"
    refused 'manifest unknown|not found' skopeo inspect --cert-dir "$TRUST" --creds "$LOGIN" "docker://$HOST/shop/skopeo:1"
}

# art USER PASSWORD WORD...: oras' library.
art() { ARTIFACT_USER=$1 ARTIFACT_PASSWORD=$2 artifact "${@:3}"; }

oras_lists_and_pushes() {
    has '^1$' "$(art '' '' tags "$HOST/public/web")"
    refused 'unauthorized|401|denied' art '' '' tags "$HOST/shop/web"
    echo artifact >"$WORK/artifact.txt"
    (cd "$WORK" && art any "$ROBOT" push "$HOST/ci/tool:1" application/vnd.example.tool artifact.txt=text/plain)
    refused 'denied|403' art any "$ROBOT" tags "$HOST/shop/tool"
}

crane_lists_the_catalog() {
    crane auth login "$HOST" --username "$USER_NAME" --password-stdin <<<"$PASSWORD"
    says '^shop/web$' crane catalog "$HOST"
    crane auth logout "$HOST"
}

# revoke: in the script's own shell.
revoke() {
    sed -nE 's/^robot:ci, id ([^,]+),.*/\1/p' "$WORK/robot.said" >"$WORK/revoked"
    sed -i "s|^issuer = .*|&\nrevoked = \"revoked\"|" "$WORK/dockgate.toml"
    kill -HUP "$GATEWAY"
}

robot_status() { curl -sS --cacert "$CA" -o /dev/null -w '%{http_code}' -u "any:$ROBOT" "https://$HOST/v2/"; }
robot_gets() { [ "$(robot_status)" = "$1" ]; }

check "the challenge names the token service" asks_for_tokens
check "skopeo deletes" skopeo_deletes
check "oras lists what is public, and pushes as a robot" oras_lists_and_pushes
check "crane lists the catalog" crane_lists_the_catalog
check "a robot logs in" same 200 "$(robot_status)"
revoke
check "a robot that is revoked does not" within 10 robot_gets 401
check "the key is its owner's alone" same 600 "$(stat -c %a "$WORK/auth/token-key.pem")"

## Registries that take the gateway's tokens

openssl x509 -in "$WORK/auth/token-key.pem" -out "$WORK/token.crt"
curl -sS --cacert "$CA" "https://$HOST/.well-known/jwks.json" >"$WORK/jwks.json"

# backend PROGRAM KEYS NAME: a registry on BACKEND that takes the tokens, by the certificate or by the key set.
backend() {
    BACKEND=127.0.0.1:$(free_port)
    cat >"$WORK/$3.yml" <<END
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: "$WORK/$3.data"}, delete: {enabled: true}}
http: {addr: "$BACKEND"}
auth:
  token: {realm: "https://$HOST/token", service: $SERVICE, issuer: $ISSUER, $2}
END
    OTEL_TRACES_EXPORTER=none start "$3" env -u REGISTRY_AUTH_FILE "$1" serve "$WORK/$3.yml"
    started "$STARTED" 30 backend_answers
}

backend_answers() { [ "$(curl -s -o /dev/null -w '%{http_code}' "http://$BACKEND/v2/")" = 401 ]; }

backend_status() { # SCOPE PATH [LOGIN]
    local token
    token=$(curl -sS --cacert "$CA" ${3:+-u "$3"} "https://$HOST/token?service=$SERVICE&scope=$1" | jq -r .token)
    curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" "http://$BACKEND$2"
}

takes_our_tokens() {
    crane auth login "$BACKEND" --insecure --username "$USER_NAME" --password-stdin <<<"$PASSWORD"
    crane push --insecure "$WORK/image" "$BACKEND/public/web:1"
    crane auth logout "$BACKEND"
    same 200 "$(backend_status repository:public/web:pull /v2/public/web/tags/list)"
    same 200 "$(backend_status repository:shop/web:pull /v2/ "$LOGIN")"
    same 401 "$(backend_status repository:shop/web:pull /v2/shop/web/tags/list)"
    same 200 "$(backend_status repository:public/web:pull /v2/public/web/tags/list "$LOGIN")"
    same 401 "$(backend_status repository:public/web:pull /v2/other/web/tags/list "$LOGIN")"
}

backend docker-registry "rootcertbundle: \"$WORK/token.crt\"" registry28
check "docker-registry 2.8 takes the tokens by the certificate" takes_our_tokens
backend "$TOOLS/bin/registry" "rootcertbundle: \"$WORK/token.crt\"" distribution3
check "distribution 3 takes the tokens by the certificate" takes_our_tokens
# Without a certificate in the key file the tokens have none either, and distribution 3 goes by the key's id.
openssl pkey -in "$WORK/auth/token-key.pem" -out "$WORK/key.pem"
cp "$WORK/key.pem" "$WORK/auth/token-key.pem"
kill -HUP "$GATEWAY"
backend "$TOOLS/bin/registry" "jwks: \"$WORK/jwks.json\"" distribution3keys
check "distribution 3 takes the tokens by the key set" takes_our_tokens

done_checking
