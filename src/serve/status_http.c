/* SPDX-License-Identifier: MIT */
/* Requests to the status page: what is refused, and who makes the answers. */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "serve/status.h"

/* For all that is not the page: nothing in it is to be run or shown. */
#define NO_POLICY "default-src 'none'; frame-ancestors 'none'; sandbox"

static int send_response(struct MHD_Connection *connection, unsigned code, const char *type,
                         const char *policy, struct MHD_Response *response)
{
    const struct {
        const char *name, *value;
    } headers[] = {
        {MHD_HTTP_HEADER_CONTENT_TYPE, type},
        {MHD_HTTP_HEADER_CONTENT_SECURITY_POLICY, policy},
        {MHD_HTTP_HEADER_CACHE_CONTROL, "no-store"},
        {"X-Content-Type-Options", "nosniff"},
        {"X-Frame-Options", "DENY"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
    };
    if (!response)
        return MHD_NO; /* no memory: the connection ends */
    enum MHD_Result ret = MHD_YES;
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]) && ret == MHD_YES; i++)
        ret = MHD_add_response_header(response, headers[i].name, headers[i].value);
    if (ret == MHD_YES && code == MHD_HTTP_METHOD_NOT_ALLOWED)
        ret = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    if (ret == MHD_YES)
        ret = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return (int)ret;
}

/* @why: a constant sentence. */
static int refuse(struct MHD_Connection *connection, unsigned code, const char *why)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(why), (void *)why, MHD_RESPMEM_PERSISTENT);
    return send_response(connection, code, "text/plain; charset=utf-8", NO_POLICY, response);
}

static int send_text(struct MHD_Connection *connection, const char *type,
                     struct vd_status_text text)
{
    if (!text.bytes)
        return refuse(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "Out of memory.\n");
    struct MHD_Response *response =
        MHD_create_response_from_buffer(text.length, text.bytes, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(text.bytes);
    return send_response(connection, MHD_HTTP_OK, type, NO_POLICY, response);
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family != AF_INET6)
        return false;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
}

/* Is @host, of a request by this machine, a name that only this machine can have? */
static bool is_local_name(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t length = strlen(names[i]);
        if (strncasecmp(host, names[i], length) != 0)
            continue;
        const char *rest = host + length;
        if (*rest == '\0')
            return true;
        if (*rest == ':' && strlen(rest) <= 6 && rest[1 + strspn(rest + 1, "0123456789")] == '\0')
            return true;
    }
    return false;
}

/*
 * A page of somebody else, opened in a browser on this machine, could give its own name the address
 * of this machine, and then read what is here as its own.  The name is in the request.
 */
static bool may_ask(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!info || !is_loopback(info->client_addr))
        return true;
    const char *host =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    return host && is_local_name(host);
}

static bool has_body(struct MHD_Connection *connection)
{
    const char *length =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return (length && strcmp(length, "0") != 0) ||
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
                                       MHD_HTTP_HEADER_TRANSFER_ENCODING);
}

bool vd_status_may_wait(struct MHD_Connection *connection)
{
    return !has_body(connection);
}

/* What follows the "?" of "/map.json". */
struct query {
    const char *export; /* NULL: not said */
    size_t export_length;
    const char *contexts[VD_STATUS_MAP_CONTEXTS_MAX];
    size_t context_entries;
    bool is_bad;
};

static enum MHD_Result take_argument(void *opaque, enum MHD_ValueKind kind, const char *key,
                                     size_t key_length, const char *value, size_t value_length)
{
    (void)kind;
    struct query *query = opaque;
    if (!value) {
        value = "";
        value_length = 0;
    }
    if (key_length == 6 && memcmp(key, "export", 6) == 0 && !query->export) {
        query->export = value;
        query->export_length = value_length;
    } else if (key_length == 7 && memcmp(key, "context", 7) == 0 &&
               query->context_entries < VD_STATUS_MAP_CONTEXTS_MAX &&
               strlen(value) == value_length) {
        query->contexts[query->context_entries++] = value;
    } else {
        query->is_bad = true;
    }
    return MHD_YES;
}

static int answer_map(struct vd_status_site *site, struct MHD_Connection *connection)
{
    struct query query = {0};
    MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, take_argument, &query);
    if (query.is_bad || !query.export)
        return refuse(connection, MHD_HTTP_BAD_REQUEST,
                      "The address is /map.json?export=NAME, and then perhaps &context=CONTEXT, "
                      "up to 8 times.\n");
    struct vd_export *export =
        vd_exports_find(&site->server->exports, query.export, query.export_length);
    if (!export)
        return refuse(connection, MHD_HTTP_NOT_FOUND, "There is no such export.\n");
    struct vd_status_text text =
        vd_status_map(site->maps, export, query.contexts, query.context_entries);
    vd_export_release(&site->server->exports, export);
    return send_text(connection, "application/json", text);
}

int vd_status_answer(struct vd_status_site *site, struct MHD_Connection *connection,
                     const char *path, const char *method)
{
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                      "There is nothing to change here.\n");
    if (has_body(connection))
        return refuse(connection, MHD_HTTP_BAD_REQUEST, "A request here has no body.\n");
    if (!may_ask(connection))
        return refuse(connection, MHD_HTTP_FORBIDDEN,
                      "On this machine the address is http://localhost, 127.0.0.1 or [::1], and "
                      "the port.\n");

    if (strcmp(path, "/") == 0) {
        struct MHD_Response *response = MHD_create_response_from_buffer(
            vd_status_page_bytes, (void *)vd_status_page, MHD_RESPMEM_PERSISTENT);
        return send_response(connection, MHD_HTTP_OK, "text/html; charset=utf-8",
                             vd_status_page_policy, response);
    }
    if (strcmp(path, "/status.json") == 0)
        return send_text(connection, "application/json",
                         vd_status_json(site->server, site->since_ms));
    if (strcmp(path, "/metrics") == 0)
        return send_text(connection, "text/plain; version=0.0.4; charset=utf-8",
                         vd_status_metrics(site->server, site->since_ms));
    if (strcmp(path, "/map.json") == 0)
        return answer_map(site, connection);
    return refuse(connection, MHD_HTTP_NOT_FOUND,
                  "Here are /, /status.json, /map.json and /metrics.\n");
}
