/* SPDX-License-Identifier: MIT */
#include "consumer.h"

#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "util/endian.h"

/* Of a GOW v3 file: docs/formats/gow.md. */
#define SIZE_OFFSET       8u
#define GENERATION_OFFSET 24u
#define VERSIONS_OFFSET   (64u + 256u + 4u * (1u << 22))

static size_t window_blocks(const struct vt_ledger_window *window)
{
    return (size_t)vd_div_up(window->guest.length, VT_LEDGER_BLOCK_BYTES);
}

static size_t all_blocks(const struct vt_ledger *ledger)
{
    size_t blocks = 0;
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++)
        blocks += window_blocks(&ledger->windows[i]);
    return blocks;
}

static uint64_t read_le64(struct vd_storage *file, uint64_t offset)
{
    struct le64 raw;
    VT_OK(vd_storage_pread(file, &raw, sizeof(raw), offset, &vt_err));
    return le64_get(raw);
}

static void read_versions(const struct vt_ledger *ledger, struct vd_storage *file,
                          uint32_t *versions)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct le32 raw[16];
        size_t blocks = window_blocks(&ledger->windows[i]);
        uint64_t first = ledger->windows[i].guest.offset / VT_LEDGER_BLOCK_BYTES;
        assert_true(blocks <= sizeof(raw) / sizeof(raw[0]));
        VT_OK(vd_storage_pread(file, raw, blocks * sizeof(raw[0]),
                               VERSIONS_OFFSET + first * sizeof(raw[0]), &vt_err));
        for (size_t j = 0; j < blocks; j++)
            *versions++ = le32_get(raw[j]);
    }
}

void vt_consumer_sync(struct vt_consumer *consumer, const struct vt_ledger *ledger,
                      struct vd_storage *file, const uint8_t *bytes)
{
    vt_consumer_free(consumer);
    consumer->bytes = vt_calloc(1, ledger->bytes);
    consumer->versions = vt_calloc(all_blocks(ledger), sizeof(*consumer->versions));
    consumer->size = read_le64(file, SIZE_OFFSET);
    consumer->generation = read_le64(file, GENERATION_OFFSET);
    read_versions(ledger, file, consumer->versions);
    memcpy(consumer->bytes, bytes, ledger->bytes);
}

void vt_consumer_copy(struct vt_consumer *to, const struct vt_consumer *from,
                      const struct vt_ledger *ledger)
{
    vt_consumer_free(to);
    *to = *from;
    to->bytes = vt_calloc(1, ledger->bytes);
    to->versions = vt_calloc(all_blocks(ledger), sizeof(*to->versions));
    memcpy(to->bytes, from->bytes, ledger->bytes);
    memcpy(to->versions, from->versions, all_blocks(ledger) * sizeof(*to->versions));
}

void vt_consumer_free(struct vt_consumer *consumer)
{
    free(consumer->bytes);
    free(consumer->versions);
    *consumer = (struct vt_consumer){0};
}

/* What one window was then, and is now. */
struct comparison {
    const struct vt_ledger_window *window;
    const uint32_t *versions_then;
    const uint32_t *versions_now;
    const uint8_t *bytes_then;
    const uint8_t *bytes_now;
};

/* As vt_consumer_misses(), for one window; *differs: some block is not what it was. */
static const char *window_misses(const struct comparison *it, bool *differs, uint64_t *offset)
{
    for (size_t i = 0; i < window_blocks(it->window); i++) {
        uint64_t start = i * VT_LEDGER_BLOCK_BYTES;
        uint64_t length = vd_min(VT_LEDGER_BLOCK_BYTES, it->window->guest.length - start);
        bool same = memcmp(it->bytes_now + start, it->bytes_then + start, length) == 0;
        *offset = it->window->guest.offset + start;
        if (it->versions_now[i] < it->versions_then[i])
            return "a version went down";
        if (it->versions_now[i] == it->versions_then[i] && !same)
            return "a change of a block whose version did not go up";
        *differs |= !same;
    }
    return NULL;
}

const char *vt_consumer_misses(const struct vt_consumer *consumer, const struct vt_ledger *ledger,
                               struct vd_storage *file, const uint8_t *bytes, uint64_t *offset)
{
    uint32_t *now = vt_calloc(all_blocks(ledger), sizeof(*now));
    uint64_t generation = read_le64(file, GENERATION_OFFSET);
    bool differs = consumer->size != read_le64(file, SIZE_OFFSET);
    const char *wrong = NULL;
    size_t block = 0;
    uint64_t byte = 0;

    read_versions(ledger, file, now);
    for (size_t i = 0; i < VT_LEDGER_WINDOWS && !wrong; i++) {
        const struct vt_ledger_window *window = &ledger->windows[i];
        struct comparison it = {.window = window,
                                .versions_then = consumer->versions + block,
                                .versions_now = now + block,
                                .bytes_then = consumer->bytes + byte,
                                .bytes_now = bytes + byte};
        wrong = window_misses(&it, &differs, offset);
        block += window_blocks(window);
        byte += window->guest.length;
    }
    free(now);
    if (!wrong && generation < consumer->generation)
        wrong = "the generation went down";
    if (!wrong && differs && generation == consumer->generation)
        wrong = "a change although the generation is the same";
    return wrong;
}
