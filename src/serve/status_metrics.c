/* SPDX-License-Identifier: MIT */
/* "/metrics": text format 0.0.4 of Prometheus. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "serve/status.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

/* In a label, these have to be escaped and nothing else may be. */
static void print_label(FILE *out, const char *value)
{
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            putc('\\', out);
        if (*value == '\n')
            fputs("\\n", out);
        else
            putc(*value, out);
    }
}

/* What is printed is the same for all exports of a family: it is walked through once for each. */
struct family {
    const char *name, *type, *help;
    void (*print)(FILE *out, const char *name, const struct vd_export *export,
                  const struct vdisk_server_stats *stats);
};

static void print_value(FILE *out, const char *name, const struct vd_export *export, uint64_t value)
{
    fprintf(out, "%s{export=\"", name);
    print_label(out, export->name);
    fprintf(out, "\"} %" PRIu64 "\n", value);
}

static void print_size(FILE *out, const char *name, const struct vd_export *export,
                       const struct vdisk_server_stats *stats)
{
    (void)stats;
    print_value(out, name, export, vd_format_size(vd_image_format(export->image)));
}

static void print_clients(FILE *out, const char *name, const struct vd_export *export,
                          const struct vdisk_server_stats *stats)
{
    print_value(out, name, export, stats->clients);
}

static void print_connections(FILE *out, const char *name, const struct vd_export *export,
                              const struct vdisk_server_stats *stats)
{
    print_value(out, name, export, stats->connections);
}

static void print_received(FILE *out, const char *name, const struct vd_export *export,
                           const struct vdisk_server_stats *stats)
{
    print_value(out, name, export, stats->received_bytes);
}

static void print_sent(FILE *out, const char *name, const struct vd_export *export,
                       const struct vdisk_server_stats *stats)
{
    print_value(out, name, export, stats->sent_bytes);
}

static void print_kind(FILE *out, const char *name, const struct vd_export *export, unsigned kind)
{
    fprintf(out, "%s{export=\"", name);
    print_label(out, export->name);
    fprintf(out, "\",kind=\"%s\"", vd_status_kind_name(kind));
}

static void print_requests(FILE *out, const char *name, const struct vd_export *export,
                           const struct vdisk_server_stats *stats)
{
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        print_kind(out, name, export, kind);
        fprintf(out, "} %" PRIu64 "\n", stats->requests[kind].requests);
    }
}

static void print_errors(FILE *out, const char *name, const struct vd_export *export,
                         const struct vdisk_server_stats *stats)
{
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        print_kind(out, name, export, kind);
        fprintf(out, "} %" PRIu64 "\n", stats->requests[kind].errors);
    }
}

static void print_bytes(FILE *out, const char *name, const struct vd_export *export,
                        const struct vdisk_server_stats *stats)
{
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        print_kind(out, name, export, kind);
        fprintf(out, "} %" PRIu64 "\n", stats->requests[kind].bytes);
    }
}

/* The count is that of the buckets, whatever is added elsewhere meanwhile. */
static void print_durations(FILE *out, const char *name, const struct vd_export *export,
                            const struct vdisk_server_stats *stats)
{
    char part[128];
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        const struct vdisk_request_stats *request = &stats->requests[kind];
        uint64_t count = 0;
        snprintf(part, sizeof(part), "%s_bucket", name);
        for (unsigned i = 0; i + 1 < VDISK_LATENCY_CLASSES; i++) {
            uint64_t limit_us = vd_latency_limit(i);
            count += request->latencies[i];
            print_kind(out, part, export, kind);
            fprintf(out, ",le=\"%" PRIu64 ".%06" PRIu64 "\"} %" PRIu64 "\n", limit_us / 1000000,
                    limit_us % 1000000, count);
        }
        count += request->latencies[VDISK_LATENCY_CLASSES - 1];
        print_kind(out, part, export, kind);
        fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", count);
        snprintf(part, sizeof(part), "%s_sum", name);
        print_kind(out, part, export, kind);
        fprintf(out, "} %" PRIu64 ".%06" PRIu64 "\n", request->total_us / 1000000,
                request->total_us % 1000000);
        snprintf(part, sizeof(part), "%s_count", name);
        print_kind(out, part, export, kind);
        fprintf(out, "} %" PRIu64 "\n", count);
    }
}

static const struct family families[] = {
    {"vdisk_export_size_bytes", "gauge", "Size of the disk.", print_size},
    {"vdisk_export_clients", "gauge", "Clients that use the export now.", print_clients},
    {"vdisk_export_connections_total", "counter", "Clients that have chosen the export.",
     print_connections},
    {"vdisk_export_received_bytes_total", "counter", "Bytes received from its clients.",
     print_received},
    {"vdisk_export_sent_bytes_total", "counter", "Bytes sent to its clients.", print_sent},
    {"vdisk_export_requests_total", "counter", "Requests answered, errors included.",
     print_requests},
    {"vdisk_export_request_errors_total", "counter", "Requests answered with an error.",
     print_errors},
    {"vdisk_export_request_bytes_total", "counter",
     "Bytes of the disk that successful requests were about.", print_bytes},
    {"vdisk_export_request_duration_seconds", "histogram",
     "Time from the receipt of a request to its answer.", print_durations},
};

static void print_exports(FILE *out, struct vdisk_server *server)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        const struct family *family = &families[i];
        head(out, family->name, family->type, family->help);
        struct vd_export *export = vd_exports_next(&server->exports, NULL);
        for (; export; export = vd_exports_next(&server->exports, export)) {
            struct vdisk_server_stats stats;
            vd_status_sum(server, export, &stats);
            family->print(out, family->name, export, &stats);
        }
    }
}

static void print_server(FILE *out, struct vdisk_server *server, uint64_t since_ms)
{
    struct vdisk_server_stats stats = {.struct_bytes = sizeof(stats)};
    uint64_t up_ms = vd_clock_ms() - since_ms;
    if (vdisk_server_stats(server, NULL, &stats, NULL) < 0)
        return;
    vd_mutex_lock(&server->lock);
    unsigned connections_now = server->connection_entries;
    vd_mutex_unlock(&server->lock);
    head(out, "vdisk_info", "gauge", "Always 1; the version of vdisk.");
    fprintf(out, "vdisk_info{version=\"%s\"} 1\n", VD_VERSION);
    head(out, "vdisk_uptime_seconds", "gauge", "Time since the server began to tell of itself.");
    fprintf(out, "vdisk_uptime_seconds %" PRIu64 ".%03" PRIu64 "\n", up_ms / 1000, up_ms % 1000);
    single(out, "vdisk_connections", "gauge", "Connections now, negotiating ones included.",
           connections_now);
    single(out, "vdisk_clients", "gauge", "Connections that have chosen an export.", stats.clients);
    single(out, "vdisk_connections_total", "counter", "Connections accepted.", stats.connections);
    single(out, "vdisk_connections_refused_total", "counter",
           "Connections that ended before they chose an export.", stats.refused);
}

struct vd_status_text vd_status_metrics(struct vdisk_server *server, uint64_t since_ms)
{
    struct vd_status_text text = {0};
    FILE *out = open_memstream(&text.bytes, &text.length);
    if (!out)
        return text;
    print_server(out, server, since_ms);
    print_exports(out, server);
    bool is_bad = ferror(out) != 0;
    if (fclose(out) != 0 || is_bad) {
        free(text.bytes);
        text = (struct vd_status_text){0};
    }
    return text;
}
