/* SPDX-License-Identifier: MIT */
/* A repository: made, opened, closed. */
#include "backup/repository.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup/journal.h"
#include "backup/manifest_json.h"
#include "backup/repository_lock.h"
#include "backup/repository_points.h"
#include "storage/new_file.h"
#include "util/mem.h"

#define IDENTITY_KEY     "vdisk-repository" /* of its version */
#define IDENTITY_VERSION 1
#define KEY_BYTES_MIN    16u

/* Directories of disks hold what the owners of the disks want to keep to themselves. */
#define DIRECTORY_MODE 0700

enum vd_digest_kind vd_repository_digest_kind(const struct vdisk_repository *repository)
{
    return repository->key.bytes ? VD_DIGEST_SHA256 : VD_DIGEST_XXH128;
}

int vd_repository_has_file(const struct vdisk_repository *repository, const char *file,
                           struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, file, err);
    if (!path)
        return -ENOMEM;
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : vd_err_errno(err, errno, "%s: can not look at it", path);
    if (!S_ISREG(st.st_mode))
        return vd_err_set(err, EBADMSG, "%s: is no regular file, as all of a repository are", path);
    return 1;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* Left by somebody who was cut off while the repository was made, or by mkfs. */
static bool may_be_in_empty(const char *name)
{
    static const char *const names[] = {".", "..", VD_REPOSITORY_LOCK, "lost+found",
                                        VD_REPOSITORY_IDENTITY ".part"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* A repository is not made around files of somebody. */
static int check_empty(const char *name, struct vdisk_error *err)
{
    DIR *directory = opendir(name);
    if (!directory)
        return vd_err_errno(err, errno, "%s: can not read the directory", name);
    int ret = 0;
    const struct dirent *entry;
    errno = 0;
    while (ret == 0 && (entry = readdir(directory)))
        if (!may_be_in_empty(entry->d_name))
            ret = vd_err_set(err, ENOTEMPTY,
                             "%s: is no repository of backups (there is no %s), and not empty "
                             "(there is %.200s): give an empty directory, or one that is not there "
                             "yet",
                             name, VD_REPOSITORY_IDENTITY, entry->d_name);
    if (ret == 0 && errno)
        ret = vd_err_errno(err, errno, "%s: can not read the directory", name);
    closedir(directory);
    return ret;
}

/* Is the directory a repository?  1, 0, or a negative errno */
static int is_repository(const struct vdisk_repository *repository, struct vdisk_error *err)
{
    struct stat st;
    if (stat(repository->name, &st) < 0)
        return errno == ENOENT
                   ? 0
                   : vd_err_errno(err, errno, "%s: can not open the repository", repository->name);
    if (!S_ISDIR(st.st_mode))
        return vd_err_set(err, ENOTDIR, "%s: a repository of backups is a directory, this is none",
                          repository->name);
    return vd_repository_has_file(repository, VD_REPOSITORY_IDENTITY, err);
}

static int make_directory(struct vdisk_repository *repository, struct vdisk_error *err)
{
    const char *name = repository->name;
    if (mkdir(name, DIRECTORY_MODE) == 0) {
        repository->is_new_directory = true;
        return vd_new_file_sync_directory(name, err);
    }
    if (errno != EEXIST)
        return vd_err_errno(err, errno, "%s: can not make the directory of the repository", name);
    struct vdisk_error ignored = {0};
    (void)vd_new_file_sync_directory(name, &ignored); /* if somebody made it a moment ago */
    struct vdisk_error why = {0};
    int ret = check_empty(name, &why);
    if (ret == -ENOTEMPTY && is_repository(repository, &ignored) > 0)
        return 0; /* and made a repository of it */
    return ret < 0 ? vd_err_copy(err, &why) : 0;
}

static int write_identity(const struct vdisk_repository *repository, struct vdisk_error *err)
{
    uint8_t bytes[VD_UUID_BYTES];
    char uuid[VD_UUID_TEXT_BYTES];
    char created[VD_TIME_TEXT_BYTES];
    int64_t now = (int64_t)time(NULL);
    int ret = vd_uuid_new(bytes, err);
    if (ret < 0)
        return ret;
    if (!vd_time_write(now, created))
        return vd_err_set(err, EOVERFLOW, "%s: the clock says %" PRId64 " seconds since 1970",
                          repository->name, now);
    CLEANUP_FREE char *path = vd_repository_path(repository, VD_REPOSITORY_IDENTITY, err);
    if (!path)
        return -ENOMEM;
    json_t *object = json_pack("{s:i, s:s, s:s, s:b}", IDENTITY_KEY, IDENTITY_VERSION, "uuid",
                               vd_uuid_text(bytes, uuid), "created", created, "keyed",
                               repository->key.bytes != NULL);
    if (!object)
        return vd_err_nomem(err, "a repository");
    ret = vd_sealed_replace(path, object, &repository->key, err);
    json_decref(object);
    return ret;
}

static int take_identity(struct vdisk_repository *repository, const char *path, json_t *object,
                         struct vdisk_error *err)
{
    json_error_t why;
    const char *uuid, *created;
    json_int_t version;
    int64_t seconds;
    int keyed;
    const json_t *found = json_object_get(object, IDENTITY_KEY);
    if (json_is_integer(found) && json_integer_value(found) > IDENTITY_VERSION)
        return vd_err_set(err, ENOTSUP,
                          "%s: a repository of version %" JSON_INTEGER_FORMAT
                          ", known is %d: a newer vdisk has made it",
                          path, json_integer_value(found), IDENTITY_VERSION);
    if (json_unpack_ex(object, &why, JSON_STRICT, "{s:I, s:s, s:s, s:b}", IDENTITY_KEY, &version,
                       "uuid", &uuid, "created", &created, "keyed", &keyed) < 0)
        return vd_err_set(err, EBADMSG, "%s: %s", path, why.text);
    if (version != IDENTITY_VERSION)
        return vd_err_set(err, EBADMSG, "%s: version %" JSON_INTEGER_FORMAT ", known is %d", path,
                          version, IDENTITY_VERSION);
    if (!vd_uuid_is_text(uuid))
        return vd_err_set(err, EBADMSG, "%s: uuid \"%.100s\" is none", path, uuid);
    if (!vd_time_read(created, &seconds))
        return vd_err_set(err, EBADMSG, "%s: created \"%.100s\" is no time", path, created);
    if (!keyed != !repository->key.bytes)
        return vd_err_set(err, EBADMSG, "%s: keyed is %s, but its seal is of the other kind", path,
                          keyed ? "true" : "false");
    memcpy(repository->uuid, uuid, sizeof(repository->uuid));
    return 0;
}

static int read_identity(struct vdisk_repository *repository, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, VD_REPOSITORY_IDENTITY, err);
    if (!path)
        return -ENOMEM;
    json_t *object = NULL;
    int ret =
        vd_sealed_read(path, &repository->key, VD_REPOSITORY_IDENTITY_BYTES_MAX, &object, err);
    if (ret < 0)
        return ret;
    ret = take_identity(repository, path, object, err);
    json_decref(object);
    return ret;
}

/* What somebody was writing when he was killed: all but an unfinished backup. */
static bool is_left_over(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    if (digits >= VD_POINT_DIGITS_MIN && name[digits] == '.')
        return ends_with(name, ".part");
    return strcmp(name, "journal.json.part") == 0 || strcmp(name, "partial.json.part") == 0;
}

/* Files that a merge, or a backup, was writing when it was killed: who is the only one to write may
 * take them away.  Space is all that they cost, so failing to is no failure. */
static void sweep(const struct vdisk_repository *repository)
{
    DIR *directory = opendir(repository->name);
    if (!directory)
        return;
    const struct dirent *entry;
    while ((entry = readdir(directory)))
        if (is_left_over(entry->d_name))
            unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
}

/* L3: it is the next one to write who minds whether this can be done. */
static int finish_beside(struct vdisk_repository *repository, struct vdisk_error *err)
{
    struct vdisk_error ignored = {0};
    if (vd_repository_relock(repository, VD_REPOSITORY_ADD, &ignored) == 0)
        (void)vd_journal_recover(repository, &ignored);
    return vd_repository_relock(repository, VD_REPOSITORY_READ, err);
}

/* Alone for as long as it takes. */
static int finish_alone(struct vdisk_repository *repository, struct vdisk_error *err)
{
    static const char *const why = "a merge or prune that was cut off has to be finished first";
    if (faccessat(AT_FDCWD, repository->name, W_OK, AT_EACCESS) < 0)
        return vd_err_set(err, EROFS, "%s: %s, and the directory can not be written",
                          repository->name, why);
    int ret = 0;
    if (repository->access != VD_REPOSITORY_CHANGE)
        ret = vd_repository_relock(repository, VD_REPOSITORY_CHANGE, err);
    if (ret == 0)
        ret = vd_journal_recover(repository, err);
    if (ret == 0 && repository->access != VD_REPOSITORY_CHANGE)
        ret = vd_repository_relock(repository, repository->access, err);
    return vd_err_prefix(err, ret, "%s: ", why);
}

/* What a journal says is done before anybody looks at points. */
static int finish_journal(struct vdisk_repository *repository, struct vdisk_error *err)
{
    enum vd_repository_access needed;
    int ret = vd_journal_needs(repository, &needed, err);
    if (ret <= 0)
        return ret;
    if (needed == VD_REPOSITORY_CHANGE)
        return finish_alone(repository, err);
    if (repository->access == VD_REPOSITORY_READ)
        return finish_beside(repository, err);
    return vd_journal_recover(repository, err);
}

static int enter(struct vdisk_repository *repository, struct vdisk_error *err)
{
    int ret = is_repository(repository, err);
    if (ret < 0)
        return ret;
    bool makes = ret == 0;
    if (makes && repository->access != VD_REPOSITORY_ADD)
        return vd_err_set(err, ENOENT, "%s: is no repository of backups: there is no %s in it",
                          repository->name, VD_REPOSITORY_IDENTITY);
    ret = makes ? make_directory(repository, err) : 0;
    if (ret == 0)
        ret = vd_repository_lock(repository, err);
    if (ret == 0 && makes) {
        /* Somebody may have made it before this one had the lock. */
        ret = is_repository(repository, err);
        if (ret == 0)
            ret = check_empty(repository->name, err);
        else if (ret > 0)
            makes = false;
    }
    if (ret == 0 && makes) {
        repository->is_new = true;
        ret = write_identity(repository, err);
    }
    if (ret >= 0)
        ret = read_identity(repository, err);
    if (ret == 0)
        ret = finish_journal(repository, err);
    if (ret < 0)
        return ret;
    if (repository->access != VD_REPOSITORY_READ)
        sweep(repository);
    return vd_repository_reload(repository, err);
}

static void remove_file(const struct vdisk_repository *repository, const char *file)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, file, NULL);
    if (path)
        unlink(path);
}

/* The lock goes last: who waits for it finds no repository, and then no lock. */
void vd_repository_take_away(struct vdisk_repository *repository)
{
    if (repository->is_new) {
        remove_file(repository, VD_REPOSITORY_IDENTITY ".part");
        remove_file(repository, VD_REPOSITORY_IDENTITY);
        remove_file(repository, VD_REPOSITORY_LOCK);
    }
    if (repository->is_new_directory)
        rmdir(repository->name); /* unless somebody else has begun to use it */
}

static int take_key(struct vdisk_repository *repository, const struct vd_seal_key *key,
                    struct vdisk_error *err)
{
    if (!key || !key->bytes)
        return 0;
    if (key->length < KEY_BYTES_MIN)
        return vd_err_set(err, EINVAL, "%s: a key of %zu bytes, but it has at least %u",
                          repository->name, key->length, KEY_BYTES_MIN);
    void *bytes = malloc(key->length);
    if (!bytes)
        return vd_err_nomem(err, "a key");
    memcpy(bytes, key->bytes, key->length);
    repository->key = (struct vd_seal_key){.bytes = bytes, .length = key->length};
    return 0;
}

/* Without slashes behind it: its own name is what is made durable, not what is in it. */
static int take_name(struct vdisk_repository *repository, const char *name, struct vdisk_error *err)
{
    if (!*name || !vd_storage_name_is_local(name))
        return vd_err_set(err, EINVAL, "\"%s\": a repository of backups is a local directory",
                          name);
    size_t length = strlen(name);
    while (length > 1 && name[length - 1] == '/')
        length--;
    repository->name = strndup(name, length);
    return repository->name ? 0 : vd_err_nomem(err, "a repository");
}

int vd_repository_open(const char *name, enum vd_repository_access access,
                       const struct vd_seal_key *key, struct vdisk_repository **repository,
                       struct vdisk_error *err)
{
    struct vdisk_repository *opened = calloc(1, sizeof(*opened));
    if (!opened)
        return vd_err_nomem(err, "a repository");
    opened->access = access;
    opened->lock_fd = -1;
    int ret = take_name(opened, name, err);
    if (ret == 0)
        ret = take_key(opened, key, err);
    if (ret == 0)
        ret = enter(opened, err);
    if (ret < 0) {
        vd_repository_take_away(opened);
        vdisk_repository_close(opened);
        return ret;
    }
    *repository = opened;
    return 0;
}

int vdisk_repository_open(const char *name, const struct vdisk_repository_options *options,
                          struct vdisk_repository **repository, struct vdisk_error *err)
{
    static const struct vdisk_repository_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "repository options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~(uint32_t)VDISK_REPOSITORY_WRITE)
        return vd_err_set(err, EINVAL, "repository options: flags %#" PRIx32 ": unknown ones",
                          options->flags);
    struct vd_seal_key key = {.bytes = options->key, .length = options->key_bytes};
    enum vd_repository_access access =
        options->flags & VDISK_REPOSITORY_WRITE ? VD_REPOSITORY_CHANGE : VD_REPOSITORY_READ;
    return vd_repository_open(name, access, &key, repository, err);
}

void vdisk_repository_close(struct vdisk_repository *repository)
{
    if (!repository)
        return;
    vd_points_free(repository->points, repository->point_entries);
    if (repository->key.bytes) {
        explicit_bzero((void *)(uintptr_t)repository->key.bytes, repository->key.length);
        free((void *)(uintptr_t)repository->key.bytes);
    }
    if (repository->lock_fd >= 0)
        close(repository->lock_fd);
    free(repository->name);
    free(repository);
}
