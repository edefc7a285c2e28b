#!/usr/bin/env bash
# The environment variables of the `registry` image, from the tutorials, start the same gateway without a configuration file.
source "$(dirname "$0")/lib.sh"

start_registry
make_certificate "$WORK/certs"
mkdir "$WORK/auth"
make_htpasswd "$WORK/auth/htpasswd"
HOST=127.0.0.1:$(free_port)
cd "$WORK" || exit
start gateway env REGISTRY_HTTP_ADDR="$HOST" REGISTRY_HTTP_TLS_CERTIFICATE="$CERTIFICATE" REGISTRY_HTTP_TLS_KEY="$KEY" \
    REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_REALM='Registry Realm' REGISTRY_AUTH_HTPASSWD_PATH="$WORK/auth/htpasswd" \
    REGISTRY_PROXY_REMOTEURL="http://$REGISTRY" DOCKGATE_ADMIN__ADDRESS= "$DOCKGATE" serve
started "$STARTED" 30 answers
start_dockerd
head -c 3000000 /dev/urandom >payload
tar -cf payload.tar payload
docker import payload.tar "$HOST/shop/web:1" >/dev/null

the_refusal_to_the_byte() {
    same 401 "$(gateway_curl -o body -D headers -w '%{http_code}' /v2/)"
    same '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}' "$(cat body)"
    same 'Basic realm="Registry Realm"' "$(tr -d '\r' <headers | sed -n 's/^www-authenticate: //Ip')"
}

login() { docker login --username "$USER_NAME" --password-stdin "$HOST" <<<"$1"; }

pulls_again() {
    docker image rm "$HOST/shop/web:1"
    docker pull "$HOST/shop/web:1"
}

check "the 401 to the byte" the_refusal_to_the_byte
check "push without login is refused" refused 'no basic auth credentials' docker push "$HOST/shop/web:1"
check "a wrong password is refused" refused 'unauthorized|401' login wrong
check "the right password logs in" says 'Login Succeeded' login "$PASSWORD"
check "push" docker push "$HOST/shop/web:1"
check "pull" pulls_again
check "it is in the registry" curl -fsS "http://$REGISTRY/v2/shop/web/tags/list"

done_checking
