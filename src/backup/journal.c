/* SPDX-License-Identifier: MIT */
/* Changes to several files of a repository that are all done, or none. */
#include "backup/journal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/journal_steps.h"
#include "backup/repository_points.h"
#include "storage/new_file.h"
#include "util/mem.h"

#define JOURNAL_NAME      "journal.json"
#define JOURNAL_KEY       "vdisk-journal" /* of its version */
#define JOURNAL_VERSION   1
#define JOURNAL_BYTES_MAX (UINT64_C(64) << 20)

static const char *access_name(enum vd_repository_access access)
{
    return access == VD_REPOSITORY_ADD ? "add" : "change";
}

int vd_journal_begin(struct vd_journal *journal, struct vdisk_repository *repository,
                     struct vdisk_error *err)
{
    assert(repository->access != VD_REPOSITORY_READ);
    *journal = (struct vd_journal){.repository = repository};
    int ret = vd_journal_is_pending(repository, err);
    if (ret > 0)
        ret = vd_err_set(
            err, EBUSY, "%s/%s: a change that has begun is not finished: open the repository again",
            repository->name, JOURNAL_NAME);
    if (ret < 0)
        return ret;
    journal->steps = json_array();
    return journal->steps ? 0 : vd_err_nomem(err, "a journal");
}

void vd_journal_end(struct vd_journal *journal)
{
    json_decref(journal->steps);
    *journal = (struct vd_journal){0};
}

/* L3 */
static bool is_of_a_point(const struct vdisk_repository *repository, const char *name)
{
    char *end;
    uint64_t number = strtoull(name, &end, 10);
    return end - name >= VD_POINT_DIGITS_MIN && *end == '.' && !strstr(end, ".part") &&
           vd_repository_point_of(repository, number);
}

static void assert_may_change(const struct vd_journal *journal, const char *name)
{
    assert(journal->repository->access == VD_REPOSITORY_CHANGE ||
           !is_of_a_point(journal->repository, name));
    (void)journal;
    (void)name;
}

static int append(struct vd_journal *journal, json_t *step, struct vdisk_error *err)
{
    if (!step || json_array_append_new(journal->steps, step) < 0)
        return vd_err_nomem(err, "a journal");
    return 0;
}

int vd_journal_apply(struct vd_journal *journal, const char *log, const uint8_t *digest,
                     const char *file, struct vdisk_error *err)
{
    char text[2 * VD_DIGEST_BYTES_MAX + 1];
    assert(journal->repository->access == VD_REPOSITORY_CHANGE);
    vd_hex_write(digest, vd_digest_bytes(vd_repository_digest_kind(journal->repository)), text);
    return append(
        journal,
        json_pack("{s:s, s:s, s:s, s:s}", "do", "apply", "log", log, "digest", text, "file", file),
        err);
}

int vd_journal_rename(struct vd_journal *journal, const char *from, const char *to,
                      struct vdisk_error *err)
{
    assert_may_change(journal, from);
    assert_may_change(journal, to);
    return append(journal, json_pack("{s:s, s:s, s:s}", "do", "rename", "from", from, "to", to),
                  err);
}

int vd_journal_remove(struct vd_journal *journal, const char *name, struct vdisk_error *err)
{
    assert_may_change(journal, name);
    return append(journal, json_pack("{s:s, s:s}", "do", "remove", "name", name), err);
}

int vd_journal_is_pending(const struct vdisk_repository *repository, struct vdisk_error *err)
{
    return vd_repository_has_file(repository, JOURNAL_NAME, err);
}

/* Does the steps, then forgets them, for good: they must not be done again to what comes next. */
static int finish(struct vdisk_repository *repository, const struct vd_steps *steps,
                  const char *path, struct vdisk_error *err)
{
    int ret = vd_steps_run(repository, steps, err);
    if (ret < 0)
        return ret;
    if (unlink(path) < 0 && errno != ENOENT)
        return vd_err_errno(err, errno, "%s: can not remove it", path);
    return vd_new_file_sync_directory(path, err);
}

static int write_journal(const struct vd_journal *journal, const char *path,
                         struct vdisk_error *err)
{
    const struct vdisk_repository *repository = journal->repository;
    json_t *object = json_pack("{s:i, s:s, s:s, s:O}", JOURNAL_KEY, JOURNAL_VERSION, "repository",
                               repository->uuid, "access", access_name(repository->access), "steps",
                               journal->steps);
    if (!object)
        return vd_err_nomem(err, "a journal");
    int ret = vd_sealed_replace(path, object, &repository->key, err);
    json_decref(object);
    return ret;
}

int vd_journal_commit(struct vd_journal *journal, struct vdisk_error *err)
{
    struct vdisk_repository *repository = journal->repository;
    struct vd_steps steps = {0};
    CLEANUP_FREE char *path = vd_repository_path(repository, JOURNAL_NAME, err);
    if (!path)
        return -ENOMEM;
    int ret = vd_steps_read(&steps, journal->steps, err);
    if (ret == 0)
        ret = vd_steps_check_files(repository, &steps, err);
    if (ret == 0) /* the names that the steps begin with are not newer than the journal */
        ret = vd_new_file_sync_directory(path, err);
    if (ret == 0) {
        ret = write_journal(journal, path, err);
        journal->has_begun = ret == 0 || vd_journal_is_pending(repository, NULL) != 0;
    }
    if (ret == 0)
        ret = finish(repository, &steps, path, err);
    vd_steps_free(&steps);
    return vd_err_prefix(err, ret, "%s: ", path);
}

/* 1: @object is the journal, to be freed, and @steps and @access are what it says; 0: there is
 * none. */
static int read_journal(const struct vdisk_repository *repository, const char *path,
                        json_t **object, json_t **steps, enum vd_repository_access *access,
                        struct vdisk_error *err)
{
    int ret = vd_journal_is_pending(repository, err);
    if (ret <= 0)
        return ret;
    struct vdisk_error why = {0};
    ret = vd_sealed_read(path, &repository->key, JOURNAL_BYTES_MAX, object, &why);
    if (ret == -ENOENT) /* who made it has just finished it */
        return 0;
    if (ret == -EKEYREJECTED) /* the key is that of the repository */
        return vd_err_set(err, EBADMSG, "%s", why.message);
    if (ret < 0)
        return vd_err_copy(err, &why);
    const char *uuid, *name;
    json_int_t version;
    json_error_t unpack_error;
    const json_t *found = json_object_get(*object, JOURNAL_KEY);
    if (json_is_integer(found) && json_integer_value(found) > JOURNAL_VERSION)
        return vd_err_set(err, ENOTSUP,
                          "%s: version %" JSON_INTEGER_FORMAT
                          ", known is %d: the newer vdisk that has begun it has to finish it",
                          path, json_integer_value(found), JOURNAL_VERSION);
    if (json_unpack_ex(*object, &unpack_error, JSON_STRICT, "{s:I, s:s, s:s, s:o}", JOURNAL_KEY,
                       &version, "repository", &uuid, "access", &name, "steps", steps) < 0)
        return vd_err_set(err, EBADMSG, "%s: %s", path, unpack_error.text);
    if (version != JOURNAL_VERSION)
        return vd_err_set(err, EBADMSG, "%s: version %" JSON_INTEGER_FORMAT ", known is %d", path,
                          version, JOURNAL_VERSION);
    if (strcmp(uuid, repository->uuid) != 0)
        return vd_err_set(err, EBADMSG, "%s: is of repository %.40s, this one is %s", path, uuid,
                          repository->uuid);
    *access = strcmp(name, access_name(VD_REPOSITORY_ADD)) == 0 ? VD_REPOSITORY_ADD
                                                                : VD_REPOSITORY_CHANGE;
    if (strcmp(name, access_name(*access)) != 0)
        return vd_err_set(err, EBADMSG, "%s: access \"%.40s\": neither \"add\" nor \"change\"",
                          path, name);
    return 1;
}

static const char advice[] = "a change that was cut off can not be finished; without this file, "
                             "each point is as \"vdisk backup verify\" says";

int vd_journal_needs(const struct vdisk_repository *repository, enum vd_repository_access *access,
                     struct vdisk_error *err)
{
    json_t *object = NULL, *steps;
    CLEANUP_FREE char *path = vd_repository_path(repository, JOURNAL_NAME, err);
    if (!path)
        return -ENOMEM;
    int ret = read_journal(repository, path, &object, &steps, access, err);
    json_decref(object);
    return ret == -EBADMSG ? vd_err_prefix(err, ret, "%s: ", advice) : ret;
}

int vd_journal_recover(struct vdisk_repository *repository, struct vdisk_error *err)
{
    json_t *object = NULL, *json;
    struct vd_steps steps = {0};
    enum vd_repository_access access;
    CLEANUP_FREE char *path = vd_repository_path(repository, JOURNAL_NAME, err);
    if (!path)
        return -ENOMEM;
    int ret = read_journal(repository, path, &object, &json, &access, err);
    if (ret > 0) {
        ret = vd_steps_read(&steps, json, err);
        if (ret == 0)
            ret = finish(repository, &steps, path, err);
        ret = vd_err_prefix(err, ret, "%s: ", path);
    }
    vd_steps_free(&steps);
    json_decref(object);
    return ret == -EBADMSG ? vd_err_prefix(err, ret, "%s: ", advice) : ret;
}
