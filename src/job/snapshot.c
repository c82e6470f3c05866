/* SPDX-License-Identifier: MIT */
/*
 * vdisk_snapshot_external(): today's content of an image gets another name, and an overlay on it
 * the name that the image had.
 *
 * X1  Until the last step, the file has its name as before; a new name is only added to it (a hard
 *     link), and what is added is taken away again if a later step fails.
 * X2  The last step is the rename of the overlay, which is complete and durable, as is the other
 *     name.  So at any instant, power cuts included, the name leads to the same disk.
 * X3  Nobody else has the file open for writing, or as a disk, from before the overlay is made
 *     until after that step.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/chain.h"
#include "storage/new_file.h"
#include "util/mem.h"

struct handover {
    const struct vdisk_snapshot_options *options;
    struct vd_new_file file;               /* the image, locked (X3), and its overlay meanwhile */
    char *directories[2];                  /* of the image and of the new name, without links */
    char *snapshot;                        /* path of the new name */
    char *recorded;                        /* how the overlay names it */
    bool is_linked;                        /* the new name was there already, or has been given */
    bool is_resumed;                       /* it was there already */
    uint64_t size;                         /* of the disk */
    const char *format;                    /* of the image */
    const struct vd_format_driver *driver; /* of the overlay */
    struct vd_image_new_data data;
};

/* ---- Names ---- */

static size_t directory_bytes(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* The directory that @path is in, links followed. */
static char *real_directory(const char *path)
{
    CLEANUP_FREE char *directory =
        directory_bytes(path) ? strndup(path, directory_bytes(path)) : strdup(".");
    return directory ? realpath(directory, NULL) : NULL;
}

/* Where does a name lead from @from, a directory, if it is called @base in @to? */
static char *relative_name(const char *from, const char *to, const char *base)
{
    size_t common = 0, ups = 0;
    for (size_t i = 0;; i++) {
        bool ends_from = from[i] == '\0' || from[i] == '/';
        bool ends_to = to[i] == '\0' || to[i] == '/';
        if (ends_from && ends_to)
            common = i;
        if (from[i] != to[i] || !from[i])
            break;
    }
    const char *below = to + common;
    for (const char *at = from + common; *at; at++)
        ups += *at == '/' && at[1];
    below += *below == '/';

    /* "word:" would be taken for a protocol. */
    bool needs_dot = !ups && !*below && strchr(base, ':');
    CLEANUP_FREE char *climb = vd_alloc_array(ups * 3 + 1, 1);
    char *name = NULL;
    if (!climb)
        return NULL;
    for (size_t i = 0; i < ups; i++)
        memcpy(climb + i * 3, "../", 3);
    if (asprintf(&name, "%s%s%s%s%s", climb, needs_dot ? "./" : "", below, *below ? "/" : "",
                 base) < 0)
        return NULL;
    return name;
}

/* A name without a slash is in the directory of the image. */
static int find_snapshot_path(struct handover *handover, struct vdisk_error *err)
{
    const char *name = handover->options->name, *snapshot = handover->options->snapshot;
    const char *base = snapshot + directory_bytes(snapshot);
    if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return vd_err_set(err, EINVAL, "'%s' is no name for a file", snapshot);
    int beside = strchr(snapshot, '/') ? 0 : (int)directory_bytes(name);
    if (asprintf(&handover->snapshot, "%.*s%s", beside, name, snapshot) < 0) {
        handover->snapshot = NULL;
        return vd_err_nomem(err, "a file name");
    }
    const char *paths[2] = {name, handover->snapshot};
    for (int i = 0; i < 2; i++) {
        handover->directories[i] = real_directory(paths[i]);
        if (!handover->directories[i])
            return vd_err_errno(err, errno, "%s: can not look at its directory", paths[i]);
    }
    handover->recorded = relative_name(handover->directories[0], handover->directories[1], base);
    return handover->recorded ? 0 : vd_err_nomem(err, "a file name");
}

/* Is there a file that can hand its name over? */
static int check_file(const char *name, struct vdisk_error *err)
{
    struct stat st;
    if (!vd_storage_name_is_local(name))
        return vd_err_set(err, ENOTSUP, "%s: only a local file can hand its name over", name);
    if (lstat(name, &st) < 0)
        return vd_err_errno(err, errno, "%s", name);
    if (S_ISLNK(st.st_mode))
        return vd_err_set(
            err, EINVAL,
            "%s: is a symbolic link: name the file that it leads to, which is to hand "
            "its name over",
            name);
    if (!S_ISREG(st.st_mode))
        return vd_err_set(err, ENOTSUP, "%s: is no regular file: it can not hand its name over",
                          name);
    return 0;
}

/* Is @path the file that is locked? */
static bool is_the_file(const struct handover *handover, const char *path)
{
    struct vd_storage_identity own = vd_storage_identity(handover->file.old);
    struct stat st;
    return own.known && lstat(path, &st) == 0 && st.st_dev == own.device && st.st_ino == own.inode;
}

/* Whoever was killed between the two last steps goes on; anything else is never overwritten. */
static int look_at_snapshot_name(struct handover *handover, struct vdisk_error *err)
{
    struct stat st;
    if (lstat(handover->snapshot, &st) < 0)
        return errno == ENOENT ? 0 : vd_err_errno(err, errno, "%s", handover->snapshot);
    handover->is_resumed = handover->is_linked = is_the_file(handover, handover->snapshot);
    if (handover->is_linked)
        return 0;
    return vd_err_set(err, EEXIST, "%s: is there already, and is not overwritten",
                      handover->snapshot);
}

/* ---- The image as it is ---- */

static bool is_relative(const char *name)
{
    return name && *name != '/' && vd_storage_name_is_local(name) &&
           strncmp(name, "file:/", strlen("file:/")) != 0;
}

/* What it names relatively would be something else from another directory. */
static int check_names_stay(const struct handover *handover, struct vdisk_image *image,
                            struct vdisk_error *err)
{
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(image), &info, err);
    if (ret < 0 || strcmp(handover->directories[0], handover->directories[1]) == 0)
        return ret;
    const char *named = is_relative(info.backing_name) ? info.backing_name : info.data_name;
    if (!is_relative(named))
        return 0;
    return vd_err_set(
        err, EINVAL,
        "%s: names the file '%s', which it would not find from the directory of '%s': "
        "choose a name in its own directory",
        handover->options->name, named, handover->snapshot);
}

/* What is written from now on goes to the overlay: it is not left plain by accident. */
static int check_encryption(const struct handover *handover, struct vdisk_image *image,
                            struct vdisk_error *err)
{
    const struct vdisk_snapshot_options *options = handover->options;
    struct vd_format_info info;
    bool is_chosen = options->target_format || (options->create && options->create->encrypt);
    int ret = vd_format_info(vd_image_format(image), &info, err);
    if (ret < 0 || !info.encrypt || is_chosen)
        return ret;
    return vd_err_set(
        err, EINVAL,
        "%s: is encrypted, and the overlay would not be: encrypt it (-O qcow2 -o "
        "encrypt.format=luks,...), or name its format alone (-O) if it shall be plain",
        options->name);
}

static int look_at_image(struct handover *handover, struct vdisk_error *err)
{
    const struct vdisk_snapshot_options *options = handover->options;
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_SHARE, /* who writes is us (X3) */
                                      .format = options->format,
                                      .network = options->network,
                                      .passphrases = options->passphrases,
                                      .gate = options->gate};
    struct vdisk_image *image;
    int ret = vdisk_image_open(options->name, &open, &image, err);
    if (ret < 0)
        return ret;
    const struct vd_format_driver *own = vd_format_driver_of(vd_image_format(image));
    handover->size = vdisk_image_size(image);
    handover->format = vd_format_driver_name(own);
    if (!options->format && !vd_format_driver_has_probe(own))
        ret = vd_err_set(err, EINVAL,
                         "%s: no known format found in it: name the format, raw included (-f raw)",
                         options->name);
    if (ret == 0)
        ret = check_names_stay(handover, image, err);
    if (ret == 0)
        ret = check_encryption(handover, image, err);
    vdisk_image_close(image, NULL); /* read-only: nothing to lose */
    if (ret == 0 && options->target_format) {
        handover->driver = vd_format_find(options->target_format, err);
        return handover->driver ? 0 : -EINVAL;
    }
    if (ret == 0)
        handover->driver = vd_format_driver_has_backing(own) ? own : vd_format_find("qed", err);
    return ret < 0 || handover->driver ? ret : -EINVAL;
}

/* ---- The overlay ---- */

static int make_overlay(struct handover *handover, struct vdisk_error *err)
{
    const char *place = vd_new_file_place(&handover->file);
    const char *format = vd_format_driver_name(handover->driver);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (handover->options->create)
        create = *handover->options->create;
    create.backing = handover->recorded;
    create.backing_format = handover->format;
    create.size = handover->size;
    create.flags = VDISK_CREATE_NO_CHECK | VDISK_CREATE_NEW_DATA;
    int ret = vd_image_check_create(format, &create, &handover->driver, err);
    if (ret == 0)
        ret = vd_image_expect_data(&handover->data, place, &create, err);
    /* Called by its present name, which is in the right directory: the other is not yet free. */
    if (ret == 0)
        ret = vd_image_create_at(place, place, handover->driver, &create, true, err);
    if (ret < 0)
        vd_image_keep_data(&handover->data); /* what is there now is not ours */
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", handover->options->name) : 0;
}

/* Does the overlay find everything, and is it the same disk? */
static int check_overlay(const struct handover *handover, struct vdisk_error *err)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_SHARE,
                                      .format = vd_format_driver_name(handover->driver),
                                      .network = handover->options->network,
                                      .passphrases = handover->options->passphrases,
                                      .gate = handover->options->gate};
    struct vd_chain_options chain = {.open = &open, .trusts_names = true};
    const struct vdisk_create_options *create = handover->options->create;
    struct vdisk_passphrases own = {.struct_bytes = sizeof(own), .entries = 1};
    struct vdisk_image *image;
    if (create && create->encrypt) {
        own.list = &create->encrypt->passphrase;
        chain.top_passphrases = &own;
    }
    int ret = vd_image_open_chain(vd_new_file_place(&handover->file), &chain, &image, err);
    if (ret < 0)
        return ret;
    if (vdisk_image_size(image) != handover->size)
        ret = vd_err_set(err, EINVAL,
                         "%s: the overlay has a disk of %" PRIu64 " bytes, the image one of "
                         "%" PRIu64,
                         handover->options->name, vdisk_image_size(image), handover->size);
    vdisk_image_close(image, NULL); /* read-only: nothing to lose */
    return ret;
}

/* ---- The names ---- */

/* Takes the new name away; never the last one. */
static void take_name_back(const struct handover *handover)
{
    if (is_the_file(handover, handover->options->name) && is_the_file(handover, handover->snapshot))
        unlink(handover->snapshot);
}

static int give_second_name(struct handover *handover, struct vdisk_error *err)
{
    const char *name = handover->options->name;
    if (!handover->is_linked && link(name, handover->snapshot) < 0) {
        if (errno == EXDEV)
            return vd_err_set(err, EXDEV,
                              "%s: is on another file system than '%s': choose a name on the same",
                              handover->snapshot, name);
        return vd_err_errno(err, errno, "%s: can not be made another name (a hard link) of '%s'",
                            handover->snapshot, name);
    }
    handover->is_linked = true;
    if (!is_the_file(handover, name) || !is_the_file(handover, handover->snapshot))
        return vd_err_set(err, ESTALE, "%s: became another file meanwhile", name);
    return vd_new_file_sync_directory(handover->snapshot, err);
}

static int hand_over(struct handover *handover, struct vdisk_error *err)
{
    int ret = give_second_name(handover, err);
    if (ret == 0)
        ret = check_overlay(handover, err);
    if (ret == 0)
        ret = vd_new_file_publish(&handover->file, true, err);
    bool is_published = handover->file.part_name == NULL;
    if (ret < 0 && !is_published && handover->is_linked && !handover->is_resumed)
        take_name_back(handover);
    if (ret == 0 || is_published)
        vd_image_keep_data(&handover->data);
    return ret;
}

static int run(struct handover *handover, struct vdisk_error *err)
{
    const char *name = handover->options->name;
    int ret = check_file(name, err);
    if (ret == 0)
        ret = find_snapshot_path(handover, err);
    if (ret == 0)
        ret = vd_new_file_open(&handover->file, name, err);
    if (ret == 0 && (!handover->file.old || !is_the_file(handover, name)))
        ret = vd_err_set(err, ESTALE, "%s: became another file meanwhile", name);
    if (ret == 0)
        ret = look_at_snapshot_name(handover, err);
    if (ret == 0)
        ret = look_at_image(handover, err);
    if (ret == 0)
        ret = make_overlay(handover, err);
    return ret == 0 ? hand_over(handover, err) : ret;
}

static int check_options(const struct vdisk_snapshot_options *options,
                         const struct vdisk_snapshot_result *result, struct vdisk_error *err)
{
    const struct vdisk_create_options *create = options->create;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "snapshot options: struct_bytes is %zu and reserved %" PRIu64
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (!options->name || !options->snapshot)
        return vd_err_set(err, EINVAL,
                          "snapshot options: an image and a name for its content are needed");
    if (create && (create->size || create->backing || create->backing_format || create->flags))
        return vd_err_set(
            err, EINVAL,
            "snapshot options: size, backing file and flags of the overlay are not to "
            "be chosen");
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "snapshot result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

int vdisk_snapshot_external(const struct vdisk_snapshot_options *options,
                            struct vdisk_snapshot_result *result, struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct handover handover = {.options = options};
    ret = run(&handover, err);
    if (ret == 0 && result)
        *result = (struct vdisk_snapshot_result){
            .struct_bytes = sizeof(*result),
            .flags = handover.is_resumed ? VDISK_SNAPSHOT_RESUMED : 0,
            .virtual_bytes = handover.size,
            .format = vd_format_driver_name(handover.driver),
            .backing_format = handover.format,
        };
    vd_image_drop_data(&handover.data);
    vd_new_file_abandon(&handover.file);
    free(handover.directories[0]);
    free(handover.directories[1]);
    free(handover.snapshot);
    free(handover.recorded);
    return ret;
}
