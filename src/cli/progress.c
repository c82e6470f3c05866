/* SPDX-License-Identifier: MIT */
/* Progress of long work. */
#include "cli/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/output.h"

#define NS_PER_SECOND   1000000000u
#define REDRAW_NS       (NS_PER_SECOND / 10) /* of the bar and of JSON lines           */
#define STEP_PERCENT    1.0                  /* of the bytes that scripts read         */
#define COLUMNS_DEFAULT 80u
#define BAR_CELLS_MAX   40u
#define LINE_BYTES      512u /* of JSON: twice what the longest needs */

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

/* Where -p writes: not between the lines of JSON. */
static FILE *screen(const struct vd_cli *cli)
{
    return cli->json ? stderr : stdout;
}

static double percent_of(const struct vdisk_progress *now)
{
    if (now->total_bytes)
        return 100.0 * (double)now->done_bytes / (double)now->total_bytes;
    if (now->total_blocks)
        return 100.0 * (double)now->done_blocks / (double)now->total_blocks;
    return 0.0;
}

void vd_cli_progress_init(struct vd_cli *cli)
{
    vd_mutex_init(&cli->meter.lock);
}

void vd_cli_progress_destroy(struct vd_cli *cli)
{
    vd_mutex_destroy(&cli->meter.lock);
}

/* --- the terminal ---------------------------------------------------------------------------- */

static unsigned terminal_columns(FILE *out)
{
    struct winsize size;
    if (ioctl(fileno(out), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return COLUMNS_DEFAULT;
    return size.ws_col;
}

static double seconds_since(uint64_t start_ns, uint64_t at_ns)
{
    return (double)(at_ns - start_ns) / NS_PER_SECOND;
}

/* "1.2 GiB/3 GiB  120 MiB/s  0:15 left" */
static void describe(const struct vd_cli_meter *meter, uint64_t at_ns, char *text, size_t room)
{
    char done[VD_SIZE_TEXT_BYTES], total[VD_SIZE_TEXT_BYTES], rate_text[VD_SIZE_TEXT_BYTES];
    double seconds = seconds_since(meter->phase_start_ns, at_ns);
    double rate = seconds > 0 ? (double)meter->now.done_bytes / seconds : 0;
    uint64_t left_bytes = meter->now.total_bytes - meter->now.done_bytes;
    vd_size_text(meter->now.done_bytes, done);
    vd_size_text(meter->now.total_bytes, total);
    vd_size_text((uint64_t)rate, rate_text);
    int used = 0;
    if (meter->now.total_blocks)
        used = snprintf(text, room, "%" PRIu64 "/%" PRIu64 " blocks  ", meter->now.done_blocks,
                        meter->now.total_blocks);
    used += snprintf(text + used, room - (size_t)used, "%s/%s  %s/s", done, total, rate_text);
    if (rate >= 1 && used > 0 && (size_t)used < room) {
        uint64_t left_seconds = (uint64_t)((double)left_bytes / rate + 0.5);
        snprintf(text + used, room - (size_t)used, "  %" PRIu64 ":%02" PRIu64 " left",
                 left_seconds / 60, left_seconds % 60);
    }
}

static void draw_bar(FILE *out, const struct vd_cli_meter *meter, uint64_t at_ns)
{
    char text[160];
    char bar[BAR_CELLS_MAX + 1];
    describe(meter, at_ns, text, sizeof(text));
    double percent = percent_of(&meter->now);
    const char *phase = meter->now.phase ? meter->now.phase : "";
    size_t beside = strlen(phase) + strlen(text) + sizeof("  [] 100.0 %  ");
    size_t columns = terminal_columns(out);
    size_t cells = columns > beside ? columns - beside : 0;
    if (cells > BAR_CELLS_MAX)
        cells = BAR_CELLS_MAX;
    size_t full = (size_t)((double)cells * percent / 100.0);
    memset(bar, '-', cells);
    memset(bar, '#', full < cells ? full : cells);
    bar[cells] = '\0';
    /* The escape clears what a longer line left behind. */
    fprintf(out, "\r%s [%s] %5.1f %%  %s\033[K", phase, bar, percent, text);
    fflush(out);
}

/* --- qemu-img's bytes, and JSON lines ------------------------------------------------------- */

static void print_percent(FILE *out, double percent)
{
    fprintf(out, "    (%3.2f/100%%)\r", percent);
    fflush(out);
}

/* A whole line, or the error of write(). */
static int write_line(int fd, const char *line)
{
    size_t left = strlen(line);
    while (left) {
        ssize_t put = write(fd, line, left);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        line += put;
        left -= (size_t)put;
    }
    return 0;
}

static void write_json_line(struct vd_cli *cli, uint64_t at_ns, const char *state)
{
    struct vd_cli_meter *meter = &cli->meter;
    const struct vdisk_progress *now = &meter->now;
    double seconds = seconds_since(meter->start_ns, at_ns);
    double phase_seconds = seconds_since(meter->phase_start_ns, at_ns);
    double rate = phase_seconds > 0 ? (double)now->done_bytes / phase_seconds : 0;
    char line[LINE_BYTES];
    snprintf(line, sizeof(line),
             "{\"state\": \"%s\", \"phase\": \"%s\", \"percent\": %.2f, "
             "\"done-bytes\": %" PRIu64 ", \"total-bytes\": %" PRIu64 ", \"moved-bytes\": %" PRIu64
             ", \"done-blocks\": %" PRIu64 ", \"total-blocks\": %" PRIu64
             ", \"rate\": %.0f, \"seconds\": %.3f}\n",
             state, now->phase ? now->phase : "", percent_of(now), now->done_bytes,
             now->total_bytes, now->moved_bytes, now->done_blocks, now->total_blocks, rate,
             seconds);
    int ret = write_line(cli->progress_fd, line);
    if (ret < 0 && !meter->has_failed) {
        meter->has_failed = true; /* the work is worth more than its progress: said once */
        vd_cli_warning("--progress=%d: %s", cli->progress_fd, strerror(-ret));
    }
}

/* --- the life of the meter ------------------------------------------------------------------- */

void vd_cli_progress_begin(struct vd_cli *cli)
{
    struct vd_cli_meter *meter = &cli->meter;
    vd_mutex_lock(&meter->lock);
    meter->start_ns = meter->phase_start_ns = meter->drawn_ns = now_ns();
    meter->now = (struct vdisk_progress){.phase = cli->verb->name};
    meter->shown_percent = 0;
    meter->is_active = true;
    meter->is_terminal = isatty(fileno(screen(cli))) == 1;
    if (cli->progress && !meter->is_terminal)
        print_percent(screen(cli), 0);
    if (cli->progress_fd >= 0)
        write_json_line(cli, meter->start_ns, "begin");
    vd_mutex_unlock(&meter->lock);
}

static void show(struct vd_cli *cli, bool is_new_phase)
{
    struct vd_cli_meter *meter = &cli->meter;
    uint64_t at_ns = now_ns();
    bool is_due = is_new_phase || at_ns - meter->drawn_ns >= REDRAW_NS;
    double percent = percent_of(&meter->now);
    if (cli->progress && meter->is_terminal && is_due)
        draw_bar(screen(cli), meter, at_ns);
    bool is_step = percent >= meter->shown_percent + STEP_PERCENT || percent < meter->shown_percent;
    if (cli->progress && !meter->is_terminal && is_step && percent < 100) { /* 100 is the end's */
        meter->shown_percent = percent;
        print_percent(screen(cli), percent);
    }
    if (cli->progress_fd >= 0 && is_due)
        write_json_line(cli, at_ns, "run");
    if (is_due)
        meter->drawn_ns = at_ns;
}

int vd_cli_progress(void *opaque, const struct vdisk_progress *progress)
{
    struct vd_cli *cli = opaque;
    struct vd_cli_meter *meter = &cli->meter;
    vd_mutex_lock(&meter->lock);
    const char *before = meter->now.phase;
    bool is_new_phase = progress->phase && (!before || strcmp(before, progress->phase) != 0);
    meter->now = *progress;
    if (is_new_phase)
        meter->phase_start_ns = now_ns();
    show(cli, is_new_phase);
    vd_mutex_unlock(&meter->lock);
    return atomic_load(&cli->signal) != 0;
}

void vd_cli_progress_end(struct vd_cli *cli, bool ok)
{
    struct vd_cli_meter *meter = &cli->meter;
    vd_mutex_lock(&meter->lock);
    meter->is_active = false;
    if (ok) {
        meter->now.done_bytes = meter->now.total_bytes;
        meter->now.done_blocks = meter->now.total_blocks;
    }
    if (cli->progress && meter->is_terminal) {
        draw_bar(screen(cli), meter, now_ns());
        fprintf(screen(cli), "\n");
    } else if (cli->progress) {
        if (ok)
            print_percent(screen(cli), 100);
        fprintf(screen(cli), "\n");
    }
    if (cli->progress)
        fflush(screen(cli));
    if (cli->progress_fd >= 0)
        write_json_line(cli, now_ns(), ok ? "done" : "failed");
    vd_mutex_unlock(&meter->lock);
}

void vd_cli_progress_print_line(struct vd_cli *cli)
{
    struct vd_cli_meter *meter = &cli->meter;
    vd_mutex_lock(&meter->lock);
    if (meter->is_active)
        fprintf(stderr, "    (%3.2f/100%%)\n", percent_of(&meter->now));
    vd_mutex_unlock(&meter->lock);
}
