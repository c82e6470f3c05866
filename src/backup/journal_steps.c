/* SPDX-License-Identifier: MIT */
/* The steps of a journal. */
#include "backup/journal_steps.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/new_file.h"
#include "storage/redo.h"
#include "util/mem.h"

#define STEPS_MAX 100000u

/* Names that no step is about: they are what the repository is. */
static bool is_kept(const char *name)
{
    static const char *const kept[] = {"vdisk-repository.json", "lock", "journal.json"};
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        if (strcmp(name, kept[i]) == 0)
            return true;
    return false;
}

/* A file of this directory, called as vdisk calls files. */
static bool is_plain(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= NAME_MAX && name[0] != '.' && !is_kept(name) &&
           strspn(name, "0123456789"
                        "abcdefghijklmnopqrstuvwxyz"
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "._-") == length;
}

static int check_name(size_t index, const char *name, struct vdisk_error *err)
{
    if (is_plain(name))
        return 0;
    return vd_err_set(err, EBADMSG,
                      "step %zu: \"%.100s\" is not the name of a file that may change", index,
                      name);
}

static int read_step(struct vd_step *step, size_t index, json_t *json, struct vdisk_error *err)
{
    const char *kind = json_string_value(json_object_get(json, "do"));
    *step = (struct vd_step){0};
    int ret = -1;
    if (kind && strcmp(kind, "apply") == 0) {
        step->kind = VD_STEP_APPLY;
        ret = json_unpack_ex(json, NULL, JSON_STRICT, "{s:s, s:s, s:s, s:s}", "do", &kind, "log",
                             &step->from, "digest", &step->digest, "file", &step->to);
    } else if (kind && strcmp(kind, "rename") == 0) {
        step->kind = VD_STEP_RENAME;
        ret = json_unpack_ex(json, NULL, JSON_STRICT, "{s:s, s:s, s:s}", "do", &kind, "from",
                             &step->from, "to", &step->to);
    } else if (kind && strcmp(kind, "remove") == 0) {
        step->kind = VD_STEP_REMOVE;
        ret =
            json_unpack_ex(json, NULL, JSON_STRICT, "{s:s, s:s}", "do", &kind, "name", &step->from);
    }
    if (ret < 0)
        return vd_err_set(err, EBADMSG, "step %zu: is none that is known", index);
    ret = check_name(index, step->from, err);
    if (ret == 0 && step->to)
        ret = check_name(index, step->to, err);
    if (ret == 0 && step->to && strcmp(step->from, step->to) == 0)
        ret = vd_err_set(err, EBADMSG, "step %zu: \"%.100s\" twice", index, step->to);
    return ret;
}

static bool same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

/* Does @step take away the file of this name? */
static bool takes_away(const struct vd_step *step, const char *name)
{
    return step->kind != VD_STEP_APPLY && same(step->from, name);
}

/* Is @name taken away by one of the steps @first to @end - 1? */
static bool is_taken_away(const struct vd_steps *steps, size_t first, size_t end, const char *name)
{
    for (size_t i = first; i < end; i++)
        if (takes_away(&steps->steps[i], name))
            return true;
    return false;
}

/* L2: a step that is done once more finds nothing to do, and not what a later one has put there. */
static int check_order(const struct vd_steps *steps, struct vdisk_error *err)
{
    for (size_t i = 0; i < steps->entries; i++) {
        const struct vd_step *step = &steps->steps[i];
        if (step->kind == VD_STEP_RENAME && is_taken_away(steps, 0, i, step->to))
            return vd_err_set(err, EBADMSG,
                              "step %zu: \"%.100s\" is a name that an earlier step has taken away",
                              i, step->to);
    }
    return 0;
}

int vd_steps_read(struct vd_steps *steps, json_t *json, struct vdisk_error *err)
{
    size_t entries = json_array_size(json);
    *steps = (struct vd_steps){0};
    if (!json_is_array(json) || entries > STEPS_MAX)
        return vd_err_set(err, EBADMSG, "steps: no array of at most %u", STEPS_MAX);
    steps->steps = vd_alloc_array(entries, sizeof(*steps->steps));
    if (!steps->steps)
        return vd_err_nomem(err, "a journal");
    steps->entries = entries;
    int ret = 0;
    for (size_t i = 0; ret == 0 && i < entries; i++)
        ret = read_step(&steps->steps[i], i, json_array_get(json, i), err);
    if (ret == 0)
        ret = check_order(steps, err);
    if (ret < 0)
        vd_steps_free(steps);
    return ret;
}

void vd_steps_free(struct vd_steps *steps)
{
    free(steps->steps);
    *steps = (struct vd_steps){0};
}

/* The file has to be there, and its bytes are durable. */
static int settle_file(const struct vdisk_repository *repository, const char *name,
                       struct vdisk_error *err)
{
    int ret = vd_repository_has_file(repository, name, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE char *path = vd_repository_path(repository, name, err);
    if (!path)
        return -ENOMEM;
    if (ret == 0)
        return vd_err_errno(err, ENOENT, "%s", path);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return vd_err_errno(err, errno, "%s: can not make it durable", path);
    return 0;
}

/* Somebody who has it open would keep the journal from being done. */
static int check_unused(const struct vdisk_repository *repository, const char *name,
                        struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, name, err);
    if (!path)
        return -ENOMEM;
    struct vd_storage *file = NULL;
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    int ret = vd_storage_open(path, &options, &file, err);
    vd_storage_close(file);
    return ret;
}

/* Has an earlier step given this name to a file? */
static bool is_given(const struct vd_steps *steps, size_t end, const char *name)
{
    for (size_t i = 0; i < end; i++)
        if (steps->steps[i].kind == VD_STEP_RENAME && same(steps->steps[i].to, name))
            return true;
    return false;
}

int vd_steps_check_files(const struct vdisk_repository *repository, const struct vd_steps *steps,
                         struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; ret == 0 && i < steps->entries; i++) {
        const struct vd_step *step = &steps->steps[i];
        if (step->kind != VD_STEP_REMOVE && !is_given(steps, i, step->from))
            ret = settle_file(repository, step->from, err);
        if (ret < 0 || step->kind != VD_STEP_APPLY || is_given(steps, i, step->to))
            continue;
        ret = settle_file(repository, step->to, err);
        if (ret == 0)
            ret = check_unused(repository, step->to, err);
    }
    return ret;
}

/* Opens both, and applies. */
static int apply_log(const struct vdisk_repository *repository, const struct vd_step *step,
                     struct vdisk_error *err)
{
    enum vd_digest_kind kind = vd_repository_digest_kind(repository);
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    if (!vd_hex_read(step->digest, digest, vd_digest_bytes(kind)))
        return vd_err_set(err, EBADMSG, "digest \"%.80s\" of %s: no %s", step->digest, step->from,
                          vd_digest_name(kind));
    CLEANUP_FREE char *log_path = vd_repository_path(repository, step->from, err);
    CLEANUP_FREE char *path = vd_repository_path(repository, step->to, err);
    if (!log_path || !path)
        return -ENOMEM;
    struct vd_storage *log = NULL, *file = NULL;
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    int ret = vd_storage_open(log_path, NULL, &log, err);
    if (ret == 0)
        ret = vd_storage_open(path, &options, &file, err);
    if (ret == 0)
        ret = vd_redo_apply(log, kind, digest, file, err);
    vd_storage_close(file);
    vd_storage_close(log);
    return ret;
}

static int missing(const struct vdisk_repository *repository, const char *name,
                   struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG, "%s/%s is missing, and has not got its new name yet",
                      repository->name, name);
}

/* What is not there any more has been dealt with by one of the steps from @next on. */
static int run_apply(struct vdisk_repository *repository, const struct vd_steps *steps, size_t next,
                     struct vdisk_error *err)
{
    const struct vd_step *step = &steps->steps[next - 1];
    const char *const names[] = {step->to, step->from};
    for (size_t i = 0; i < 2; i++) {
        int ret = vd_repository_has_file(repository, names[i], err);
        if (ret < 0)
            return ret;
        if (ret == 0)
            return is_taken_away(steps, next, steps->entries, names[i])
                       ? 0
                       : missing(repository, names[i], err);
    }
    return apply_log(repository, step, err);
}

static int run_rename(struct vdisk_repository *repository, const struct vd_steps *steps,
                      size_t next, struct vdisk_error *err)
{
    const struct vd_step *step = &steps->steps[next - 1];
    CLEANUP_FREE char *from = vd_repository_path(repository, step->from, err);
    CLEANUP_FREE char *to = vd_repository_path(repository, step->to, err);
    if (!from || !to)
        return -ENOMEM;
    if (rename(from, to) == 0)
        return 0;
    if (errno != ENOENT)
        return vd_err_errno(err, errno, "%s: can not rename it to %s", from, step->to);
    int ret = vd_repository_has_file(repository, step->to, err);
    if (ret == 0 && !is_taken_away(steps, next, steps->entries, step->to))
        ret = missing(repository, step->from, err);
    return ret < 0 ? ret : 0;
}

static int run_remove(struct vdisk_repository *repository, const struct vd_step *step,
                      struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, step->from, err);
    if (!path)
        return -ENOMEM;
    if (unlink(path) < 0 && errno != ENOENT)
        return vd_err_errno(err, errno, "%s: can not remove it", path);
    return 0;
}

static int sync_names(const struct vdisk_repository *repository, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, "", err);
    return path ? vd_new_file_sync_directory(path, err) : -ENOMEM;
}

/* Is @step about a file that one of the steps @first to @end - 1 is about as well?  What they did
 * has to be durable first: that a name is gone tells that a step is done. */
static bool is_about_same(const struct vd_steps *steps, size_t first, size_t end,
                          const struct vd_step *step)
{
    for (size_t i = first; i < end; i++) {
        const struct vd_step *other = &steps->steps[i];
        if (same(other->from, step->from) || same(other->from, step->to) ||
            same(other->to, step->from) || same(other->to, step->to))
            return true;
    }
    return false;
}

int vd_steps_run(struct vdisk_repository *repository, const struct vd_steps *steps,
                 struct vdisk_error *err)
{
    int ret = 0;
    size_t durable = 0; /* steps up to here are */
    for (size_t i = 0; ret == 0 && i < steps->entries; i++) {
        const struct vd_step *step = &steps->steps[i];
        if (is_about_same(steps, durable, i, step)) {
            ret = sync_names(repository, err);
            durable = i;
        }
        if (ret < 0)
            break;
        if (step->kind == VD_STEP_APPLY)
            ret = run_apply(repository, steps, i + 1, err);
        else if (step->kind == VD_STEP_RENAME)
            ret = run_rename(repository, steps, i + 1, err);
        else
            ret = run_remove(repository, step, err);
    }
    return ret == 0 ? sync_names(repository, err) : ret;
}
