/* SPDX-License-Identifier: MIT */
/* What a dirty bitmap of an NBD server tells, asked for by block status. */
#include "storage/nbd_dirty.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd_priv.h"
#include "util/mem.h"

#define CONTEXT_PREFIX "qemu:dirty-bitmap:"

/* Asked for at once: bitmaps may be mixed all over, and a server answers as much as it likes. */
#define ASKED_BYTES (1u << 30)

/* For a message. */
#define LIST_BYTES 300u

/* What libnbd hands over. */
struct answer {
    const char *context;
    struct vd_bitmap *dirty;
    uint64_t size;
    uint64_t asked; /* offset */
    uint64_t end;   /* of what was answered */
    const char *flaw;
    int failure; /* negative errno */
    struct vdisk_error err;
};

/* Any bit that is set means something other than clean. */
static void take_entry(struct answer *answer, uint32_t length, uint32_t flags)
{
    struct vd_range run = vd_range(answer->end, vd_min(length, answer->size - answer->end));
    if (flags && run.length)
        answer->failure = vd_bitmap_set(answer->dirty, run, &answer->err);
    answer->end = vd_range_end(run);
}

/* What an answer sets that then comes again, over another connection, stays set: it was dirty. */
static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t entry_count, int *error)
{
    struct answer *answer = opaque;
    (void)error;
    if (strcmp(context, answer->context) != 0)
        return 0;
    answer->end = answer->asked;
    answer->flaw = offset == answer->asked ? NULL : "it is about another place";
    for (size_t i = 0; i + 1 < entry_count && !answer->flaw && answer->failure == 0; i += 2) {
        if (entries[i] == 0)
            answer->flaw = "an extent of no bytes";
        else
            take_entry(answer, entries[i], entries[i + 1]);
    }
    return 0;
}

static int ask(struct vd_nbd *nbd, struct answer *answer, struct vdisk_error *err)
{
    uint64_t length = vd_min(ASKED_BYTES, answer->size - answer->asked);
    struct vd_nbd_piece piece = {.range = vd_range(answer->asked, length)};
    struct vd_nbd_call call = {
        .op = VD_NBD_STATUS,
        .pieces = &piece,
        .piece_count = 1,
        .extent = {.callback = on_extents, .user_data = answer},
    };
    answer->end = answer->asked;
    answer->flaw = NULL;
    int ret = vd_nbd_run(nbd, &call, err);
    if (ret == 0 && answer->failure < 0)
        ret = vd_err_copy(err, &answer->err);
    if (ret < 0)
        return ret;
    if (!answer->flaw && answer->end == answer->asked)
        answer->flaw = "it says nothing";
    if (!answer->flaw)
        return 0;
    return vd_err_set(err, EBADMSG,
                      "the server's answer about %" PRIu64 " bytes at offset %" PRIu64
                      " makes no sense: %s",
                      length, answer->asked, answer->flaw);
}

static int read_all(struct vd_nbd *nbd, struct answer *answer, struct vdisk_error *err)
{
    int ret = 0;
    while (ret == 0 && answer->end < answer->size) {
        uint64_t next = vd_round_down(answer->end, nbd->facts.min_bytes);
        if (answer->end && next <= answer->asked)
            return vd_err_set(err, EBADMSG,
                              "the server's answer about offset %" PRIu64 " ends at %" PRIu64
                              ", within its smallest block",
                              answer->asked, answer->end);
        answer->asked = next;
        ret = ask(nbd, answer, err);
    }
    return ret;
}

/* --- a server that does not have it ------------------------------------------------------------
 */

struct names {
    char text[LIST_BYTES];
    size_t length;
    bool is_cut;
};

static void add_name(void *opaque, const char *name)
{
    struct names *names = opaque;
    size_t room = sizeof(names->text) - names->length;
    int length =
        snprintf(names->text + names->length, room, "%s'%s'", names->length ? ", " : "", name);
    if (length < 0 || (size_t)length >= room) {
        names->text[names->length] = '\0';
        names->is_cut = true;
    } else {
        names->length += (size_t)length;
    }
}

/* What it has, as far as it tells. */
static int not_there(struct vd_nbd *nbd, const char *bitmap, struct vdisk_error *err)
{
    struct names names = {.length = 0};
    struct vdisk_error why = {0};
    int ret = vd_nbd_list_contexts(nbd, add_name, &names, &why);
    for (char *c = names.text; *c; c++) /* they are the server's */
        if ((unsigned char)*c < ' ' || (unsigned char)*c == 127)
            *c = '?';
    if (ret < 0)
        return vd_err_set(err, ENOENT,
                          "the server has no bitmap '%s' of this export, and can not be asked what "
                          "it has: %s",
                          bitmap, why.message);
    return vd_err_set(err, ENOENT, "the server has no bitmap '%s' of this export: it has %s%s",
                      bitmap, names.length ? names.text : "no context at all",
                      names.is_cut ? ", ..." : "");
}

/* --- all of it ---------------------------------------------------------------------------------
 */

/* A disk is a multiple of 512 bytes; its export need not be. */
static int check_size(const struct vd_nbd *nbd, const struct vd_bitmap *dirty,
                      struct vdisk_error *err)
{
    uint64_t size = nbd->facts.size;
    uint64_t disk = vd_bitmap_disk_bytes(dirty);
    if (disk == size || disk == vd_round_up(size, 512))
        return 0;
    return vd_err_set(err, EMSGSIZE, "the export has %" PRIu64 " bytes now, and the disk %" PRIu64,
                      size, disk);
}

static int read_bitmap(const char *name, const char *bitmap, const char *context,
                       const struct vdisk_network_options *network, struct vd_bitmap *dirty,
                       struct vdisk_error *err)
{
    struct vd_storage_options storage = {.network = network};
    struct vd_nbd_options options = {.storage = &storage, .context = context};
    struct vd_nbd *nbd;
    int ret = vd_nbd_new(name, &options, &nbd, err);
    if (ret < 0)
        return ret;
    struct answer answer = {.context = context, .dirty = dirty, .size = nbd->facts.size};
    if (!vd_nbd_has_context(nbd))
        ret = not_there(nbd, bitmap, err);
    if (ret == 0)
        ret = check_size(nbd, dirty, err);
    if (ret == 0)
        ret = read_all(nbd, &answer, err);
    vd_nbd_free(nbd);
    return ret;
}

int vd_nbd_read_bitmap(const char *name, const char *bitmap,
                       const struct vdisk_network_options *network, struct vd_bitmap *dirty,
                       struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    size_t bytes = strlen(CONTEXT_PREFIX) + strlen(bitmap) + 1;
    CLEANUP_FREE char *context = malloc(bytes);
    if (!context)
        return vd_err_nomem(err, "the name of a bitmap");
    snprintf(context, bytes, "%s%s", CONTEXT_PREFIX, bitmap);
    int ret = read_bitmap(name, bitmap, context, network, dirty, &inner);
    if (ret < 0) {
        vd_err_prefix(&inner, ret, "%s: bitmap '%s': ", name, bitmap);
        vd_err_copy(err, &inner);
    }
    return ret;
}
