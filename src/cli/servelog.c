/* SPDX-License-Identifier: MIT */
/* What a server tells. */
#include "cli/servelog.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "util/mem.h"

#define TIME_BYTES 32

int vd_serve_log_open(struct vd_serve_log *log, const struct vd_cli *cli,
                      const struct vd_serve_process *process)
{
    *log = (struct vd_serve_log){.level = process->log_level, .is_json = cli->json};
    if (!process->log_file)
        return VD_CLI_GO;
    int fd = open(process->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    log->file = fd >= 0 ? fdopen(fd, "a") : NULL;
    if (log->file)
        return VD_CLI_GO;
    vd_cli_error("--log: %s: %s", process->log_file, strerror(errno));
    if (fd >= 0)
        close(fd);
    return 1;
}

void vd_serve_log_close(struct vd_serve_log *log)
{
    if (log->file && fclose(log->file) != 0)
        vd_cli_warning("--log: the end of the log is lost: %s", strerror(errno));
    log->file = NULL;
}

/* "2026-01-31T23:59:59.123Z" */
static const char *time_text(char text[TIME_BYTES])
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t used = strftime(text, TIME_BYTES, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + used, TIME_BYTES - used, ".%03uZ", (unsigned)(now.tv_nsec / 1000000));
    return text;
}

static const char *level_name(enum vdisk_log_level level)
{
    switch (level) {
    case VDISK_LOG_ERROR:
        return "error";
    case VDISK_LOG_WARNING:
        return "warning";
    case VDISK_LOG_INFO:
        return "info";
    default:
        return "debug";
    }
}

/* One call, so that lines of several threads do not mix; who reads the log may be gone. */
static void print_json(const struct vd_serve_log *log, const struct vd_json *json)
{
    FILE *file = log->file ? log->file : stdout;
    CLEANUP_FREE char *text = json->has_failed ? NULL : json_dumps(json->root, JSON_COMPACT);
    if (text) {
        fprintf(file, "%s\n", text);
        fflush(file);
    }
}

static void begin_event(struct vd_json *json, const char *event)
{
    char text[TIME_BYTES];
    vd_json_begin_object(json);
    vd_json_put_text(json, json->root, "time", time_text(text));
    vd_json_put_text(json, json->root, "event", event);
}

void vd_serve_log_write(void *opaque, enum vdisk_log_level level, const char *message)
{
    const struct vd_serve_log *log = opaque;
    char text[TIME_BYTES];
    struct vd_json json;
    if (level > log->level)
        return;
    if (log->is_json) {
        begin_event(&json, "log");
        vd_json_put_text(&json, json.root, "level", level_name(level));
        vd_json_put_text(&json, json.root, "message", message);
        print_json(log, &json);
        vd_json_drop(&json);
    } else if (log->file) {
        fprintf(log->file, "%s %s: %s\n", time_text(text), level_name(level), message);
        fflush(log->file);
    } else {
        fprintf(stderr, "vdisk: %s%s%s\n", level == VDISK_LOG_ERROR ? "" : level_name(level),
                level == VDISK_LOG_ERROR ? "" : ": ", message);
    }
}

/* --- where it is ------------------------------------------------------------------------------ */

/* As a browser takes it; NULL: there is none, or no memory. */
static char *status_url(const struct vd_serve_sockets *sockets)
{
    char *url = NULL;
    if (!sockets->status.host)
        return NULL;
    return asprintf(&url, "http://%s:%u/", sockets->status.host, sockets->status.port) < 0 ? NULL
                                                                                           : url;
}

static void announce_json(const struct vd_serve_ready *ready)
{
    struct vd_json json;
    begin_event(&json, "ready");
    vd_json_put_u64(&json, json.root, "pid", (uint64_t)getpid());
    json_t *exports = vd_json_put_array(&json, json.root, "exports");
    for (size_t i = 0; i < ready->entries; i++) {
        json_t *export = vd_json_append_object(&json, exports);
        vd_json_put_text(&json, export, "name", ready->names[i]);
        vd_json_put_name(&json, export, "filename", ready->files[i]);
        json_t *uris = vd_json_put_array(&json, export, "uris");
        for (size_t s = 0; s < ready->sockets->entries; s++) {
            CLEANUP_FREE char *uri =
                vd_serve_uri(&ready->sockets->list[s], ready->names[i], ready->is_tls);
            if (uri)
                vd_json_append_text(&json, uris, uri);
        }
    }
    CLEANUP_FREE char *url = status_url(ready->sockets);
    if (url)
        vd_json_put_text(&json, json.root, "status", url);
    print_json(&(struct vd_serve_log){.is_json = true}, &json);
    vd_json_drop(&json);
}

static void announce_human(const struct vd_serve_ready *ready)
{
    for (size_t i = 0; i < ready->entries; i++)
        for (size_t s = 0; s < ready->sockets->entries; s++) {
            CLEANUP_FREE char *uri =
                vd_serve_uri(&ready->sockets->list[s], ready->names[i], ready->is_tls);
            if (uri)
                printf("%s\n", uri);
        }
    CLEANUP_FREE char *url = status_url(ready->sockets);
    if (url)
        printf("%s\n", url);
    fflush(stdout);
}

void vd_serve_announce(const struct vd_serve_log *log, const struct vd_serve_ready *ready)
{
    if (log->is_json)
        announce_json(ready);
    else
        announce_human(ready);
}
