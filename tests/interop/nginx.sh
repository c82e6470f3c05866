# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# A real nginx on a free loopback port, for tests and demonstrations: source this file.
#
#   nginx_available              is there an nginx?
#   nginx_start DIR [LOCATIONS]  serves DIR/www; LOCATIONS: more nginx configuration for the server,
#                                where PORT and TLS_PORT stand for the ports
#   nginx_stop DIR               (also from a trap: harmless when it does not run)
#   nginx_log DIR                the requests so far, one a line: STATUS CONNECTION BYTES RANGE URI
#   nginx_requests DIR           how many those are
#   nginx_log_clear DIR          forgets them
#
# nginx_start sets NGINX_URL (http://127.0.0.1:PORT), NGINX_TLS_URL (https://127.0.0.1:PORT) and
# NGINX_CA (the file of certificates that makes NGINX_TLS_URL trustworthy).  Below these URLs:
#
#   /FILE           byte ranges, strong ETag, keep-alive
#   /norange/FILE   whatever is asked, the whole file (status 200)
#   /slow/FILE      512 KiB a second
#   /auth/FILE      only for NGINX_USER with NGINX_PASSWORD
#   /redirect/FILE  status 302 to /FILE
#   /loop           redirects to itself
#   /e403 /e500 /e503          that status; 503 with Retry-After: 1
#   /gzip/FILE      claims Content-Encoding: gzip

NGINX_USER=reader
NGINX_PASSWORD=open-sesame-4711

nginx_available() {
    PATH="$PATH:/usr/sbin" command -v nginx > /dev/null && command -v openssl > /dev/null
}

# Does nobody listen on this port of the loopback?
nginx_port_is_free() {
    ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}

nginx_free_port() {
    local port
    for _ in {1..200}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if nginx_port_is_free "$port"; then
            echo "$port"
            return 0
        fi
    done
    echo "nginx_free_port: no free port found" >&2
    return 1
}

# Its own certificate authority, good for two days, and a certificate for the loopback.
nginx_make_certificates() {
    local dir=$1
    [ ! -e "$dir/cert.pem" ] || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj "/CN=vdisk test authority" -keyout "$dir/ca-key.pem" -out "$dir/ca.pem" 2> /dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" \
        -keyout "$dir/key.pem" -out "$dir/request.pem" 2> /dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > "$dir/extensions"
    openssl x509 -req -days 2 -in "$dir/request.pem" -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" \
        -CAcreateserial -extfile "$dir/extensions" -out "$dir/cert.pem" 2> /dev/null
}

nginx_write_config() {
    local dir=$1 port=$2 tls_port=$3 locations=$4 user=
    locations=${locations//TLS_PORT/$tls_port}
    locations=${locations//PORT/$port}
    [ "$(id -u)" != 0 ] || user='user root;'
    cat > "$dir/nginx.conf" <<CONFIG
$user
pid $dir/nginx.pid;
error_log $dir/error.log;
worker_processes 1;
events { worker_connections 512; }
http {
    log_format short '\$status \$connection \$body_bytes_sent "\$http_range" \$request_uri';
    access_log $dir/access.log short;
    client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3;
    uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000;
    server {
        listen 127.0.0.1:$port;
        listen 127.0.0.1:$tls_port ssl;
        listen 127.0.0.2:$tls_port ssl; # a name that the certificate does not have
        ssl_certificate $dir/cert.pem;
        ssl_certificate_key $dir/key.pem;
        root $dir/../www;
        location /norange/ { alias $dir/../www/; max_ranges 0; }
        location /slow/ { alias $dir/../www/; limit_rate 512k; }
        location /auth/ {
            alias $dir/../www/;
            auth_basic vdisk;
            auth_basic_user_file $dir/htpasswd;
        }
        location /redirect/ { rewrite ^/redirect/(.*)\$ /\$1 redirect; }
        location = /loop { return 302 /loop; }
        location = /e403 { return 403; }
        location = /e500 { return 500; }
        location = /e503 { add_header Retry-After 1 always; return 503; }
        location /gzip/ { alias $dir/../www/; add_header Content-Encoding gzip always; }
        location = /nginx-marker { return 204; }
        $locations
    }
}
CONFIG
}

nginx_start() {
    local www=$1/www dir=$1/nginx port tls_port
    mkdir -p "$www" "$dir"
    dir=$(cd "$dir" && pwd)
    nginx_make_certificates "$dir"
    printf '%s:%s\n' "$NGINX_USER" "$(openssl passwd -apr1 "$NGINX_PASSWORD")" > "$dir/htpasswd"
    : > "$dir/access.log"
    for _ in {1..20}; do
        port=$(nginx_free_port)
        tls_port=$(nginx_free_port)
        [ "$port" != "$tls_port" ] || continue
        nginx_write_config "$dir" "$port" "$tls_port" "${2:-}"
        if PATH="$PATH:/usr/sbin" nginx -p "$dir" -c "$dir/nginx.conf" 2> "$dir/start.log"; then
            NGINX_URL=http://127.0.0.1:$port
            NGINX_TLS_URL=https://127.0.0.1:$tls_port
            NGINX_CA=$dir/ca.pem
            NGINX_PORT=$port
            export NGINX_URL NGINX_TLS_URL NGINX_CA NGINX_PORT
            return 0
        fi
        # Only a port that somebody else took in the meantime is worth another try.
        grep -q 'Address already in use' "$dir/start.log" || break
    done
    cat "$dir/start.log" >&2
    return 1
}

nginx_stop() {
    local pid_file=$1/nginx/nginx.pid pid
    [ -s "$pid_file" ] || return 0
    pid=$(cat "$pid_file")
    kill "$pid" 2> /dev/null || true
    for _ in {1..100}; do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.05
    done
    rm -f "$pid_file"
}

# nginx writes a request's line after its last byte: the client may be ahead of the log.  The one
# worker works in order, so when the line of a later request is there, all earlier ones are.
nginx_wait_for_log() {
    local log=$1/nginx/access.log marker="/nginx-marker?$RANDOM$RANDOM$RANDOM"
    exec 9<> "/dev/tcp/127.0.0.1/$NGINX_PORT"
    printf 'GET %s HTTP/1.0\r\n\r\n' "$marker" >&9
    cat <&9 > /dev/null
    exec 9>&-
    for _ in {1..200}; do
        ! grep -qF "$marker" "$log" || return 0
        sleep 0.02
    done
    echo "nginx_wait_for_log: the marker does not show up in $log" >&2
    return 1
}

nginx_log() {
    nginx_wait_for_log "$1"
    grep -v '/nginx-marker?' "$1/nginx/access.log" || true
}

nginx_requests() {
    nginx_log "$1" | wc -l
}

nginx_log_clear() {
    nginx_wait_for_log "$1"
    : > "$1/nginx/access.log"
}
