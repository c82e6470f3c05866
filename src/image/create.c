/* SPDX-License-Identifier: MIT */
/* Making a new image: alone, on a backing file, or with a data file. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/format.h"
#include "image/chain.h"
#include "image/image_priv.h"
#include "image/named.h"
#include "storage/new_file.h"
#include "util/mem.h"

#define CREATE_FLAGS_QCOW2 \
    (VDISK_CREATE_LAZY_REFCOUNTS | VDISK_CREATE_EXTENDED_L2 | VDISK_CREATE_DATA_RAW)
#define CREATE_FLAGS_ALL (VDISK_CREATE_NO_CHECK | VDISK_CREATE_NEW_DATA | CREATE_FLAGS_QCOW2)

static int check_struct(const struct vdisk_create_options *options, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL,
                          "create options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (options->reserved)
        return vd_err_set(err, EINVAL, "create options: reserved is not 0");
    const struct vdisk_encrypt_options *encrypt = options->encrypt;
    if (encrypt && (encrypt->struct_bytes != sizeof(*encrypt) || encrypt->reserved))
        return vd_err_set(err, EINVAL,
                          "encrypt options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          encrypt->struct_bytes, encrypt->reserved, sizeof(*encrypt));
    if (options->flags & ~(uint32_t)CREATE_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "create options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)CREATE_FLAGS_ALL);
    return 0;
}

/* What the format has no use for must not be asked of it. */
static int check_names(const struct vd_format_driver *driver,
                       const struct vdisk_create_options *options, struct vdisk_error *err)
{
    const char *format = vd_format_driver_name(driver);
    if (options->backing && !vd_format_driver_has_backing(driver))
        return vd_err_set(err, EINVAL, "format %s has no backing files", format);
    if (options->backing && !options->backing_format)
        return vd_err_set(err, EINVAL, "backing file '%s': name its format too", options->backing);
    if (options->backing && !*options->backing)
        return vd_err_set(err, EINVAL, "the name of the backing file is empty");
    if (!options->backing && options->backing_format)
        return vd_err_set(err, EINVAL, "a format of the backing file, and no backing file");
    if (options->data_file && vd_format_driver_data_file(driver) == VD_DATA_FILE_NEVER)
        return vd_err_set(err, EINVAL, "format %s has no data file of its own", format);
    if (!options->data_file && vd_format_driver_data_file(driver) == VD_DATA_FILE_ALWAYS)
        return vd_err_set(err, EINVAL,
                          "format %s keeps the data in a raw file: name it (-o "
                          "image_file=...)",
                          format);
    if (options->encrypt && !vd_format_driver_encrypts(driver))
        return vd_err_set(err, EINVAL, "format %s has no encryption", format);
    bool has_refcounts = strcmp(format, "qcow2") == 0;
    if (!has_refcounts && ((options->flags & CREATE_FLAGS_QCOW2) || options->refcount_bits ||
                           options->compat || options->compression))
        return vd_err_set(err, EINVAL, "format %s has none of the features of qcow2", format);
    return options->backing && !vd_format_find(options->backing_format, err) ? -EINVAL : 0;
}

int vd_image_check_create(const char *format, const struct vdisk_create_options *options,
                          const struct vd_format_driver **driver, struct vdisk_error *err)
{
    struct vdisk_measure_result measure;
    int ret = check_struct(options, err);
    if (ret < 0)
        return ret;
    *driver = vd_format_find(format, err);
    if (!*driver)
        return -EINVAL;
    ret = check_names(*driver, options, err);
    /* Who can not tell how large it would be can not make it. */
    return ret < 0 ? ret : vd_format_measure(*driver, options, 0, &measure, err);
}

int vd_image_open_backing(const char *name, const struct vdisk_create_options *options,
                          uint32_t flags, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_gate beside = {.struct_bytes = sizeof(beside), .flags = VDISK_GATE_BESIDE};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = flags,
                                      .format = options->backing_format,
                                      .network = options->network,
                                      .passphrases = options->passphrases,
                                      .gate = options->gate ? options->gate : &beside};
    struct vd_named named;
    int ret = vd_named_resolve(&named, name, options->backing, err);
    if (ret == 0)
        ret = vdisk_image_open(named.path, &open, image, err);
    if (ret < 0)
        vd_err_prefix(err, ret, "backing file '%s': ", options->backing);
    vd_named_free(&named);
    return ret;
}

/* Which format has the file that is named as the backing file of @name?  NULL: nobody knows. */
static const char *detect_format(const char *name, const struct vdisk_create_options *options)
{
    struct vd_storage_options open = {.flags = VD_STORAGE_SHARE, .network = options->network};
    const struct vd_format_driver *driver = NULL;
    struct vd_storage *file;
    struct vd_named named;
    if (vd_named_resolve(&named, name, options->backing, NULL) == 0 &&
        vd_storage_open(named.path, &open, &file, NULL) == 0) {
        if (vd_format_probe(file, &driver, NULL) < 0)
            driver = NULL;
        vd_storage_close(file);
    }
    vd_named_free(&named);
    return driver ? vd_format_driver_name(driver) : NULL;
}

int vd_image_check_backing_format(const char *name, const struct vdisk_create_options *options,
                                  struct vdisk_error *err)
{
    if (!options->backing || options->backing_format)
        return 0;
    const char *format =
        options->flags & VDISK_CREATE_NO_CHECK ? NULL : detect_format(name, options);
    if (!format)
        return vd_err_set(err, EINVAL, "%s: Backing file specified without backing format: name it",
                          name);
    return vd_err_set(err, EINVAL,
                      "%s: Backing file specified without backing format: name it. Detected format "
                      "of %s.",
                      name, format);
}

/* Two names of one file, when an image is made, would make it eat itself. */
static int check_is_other(const char *path, const char *role, const char *other,
                          struct vdisk_error *err)
{
    if (!vd_storage_identity_equals(vd_storage_identify(path), vd_storage_identify(other)))
        return 0;
    return vd_err_set(err, EINVAL, "%s '%s' is the same file as '%s'", role, path, other);
}

/* @name: the new image.  @data_path: its data file, or NULL.  A name that means nothing here may
 * mean something to others. */
static int check_backing_name(const char *name, const char *data_path,
                              const struct vdisk_create_options *options, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    struct vd_named named;
    int ret = vd_named_resolve(&named, name, options->backing, &inner);
    if (ret == 0)
        ret = check_is_other(named.path, "backing file", name, &inner);
    if (ret == 0 && data_path)
        ret = check_is_other(data_path, "data file", named.path, &inner);
    vd_named_free(&named);
    return ret == 0 || ret == -ENOTSUP ? 0 : vd_err_copy(err, &inner);
}

/* Is the backing file good?  *size gets that of its disk. */
static int look_at_backing(const char *name, const char *data_path,
                           const struct vdisk_create_options *options, uint64_t *size,
                           struct vdisk_error *err)
{
    struct vdisk_image *backing;
    if (!options->backing)
        return 0;
    int ret = check_backing_name(name, data_path, options, err);
    if (ret < 0 || (options->flags & VDISK_CREATE_NO_CHECK))
        return ret;
    ret = vd_image_open_backing(name, options, 0, &backing, err);
    if (ret < 0)
        return ret;
    for (struct vdisk_image *image = backing; image && data_path && ret == 0;
         image = vdisk_image_backing(image))
        ret = check_is_other(data_path, "data file", vd_storage_name(image->file), err);
    *size = vdisk_image_size(backing);
    int closed = vdisk_image_close(backing, err);
    return ret < 0 ? ret : closed;
}

/* The data file of an image that is being made. */
struct data_file {
    char *path; /* NULL: none */
    struct vd_storage *storage;
    bool is_new;
};

static int find_data(struct data_file *data, const char *name,
                     const struct vdisk_create_options *options, struct vdisk_error *err)
{
    struct vd_named named;
    if (!options->data_file)
        return 0;
    int ret = vd_named_resolve(&named, name, options->data_file, err);
    if (ret == 0) {
        data->path = STEAL_PTR(named.path);
        ret = check_is_other(data->path, "data file", name, err);
    }
    vd_named_free(&named);
    return ret;
}

/* Is there nothing in the file but a hole, as a run that was killed leaves it? */
static int check_holds_nothing(const struct data_file *data, struct vdisk_error *err)
{
    struct vd_storage_extent extent = {.kind = VD_STORAGE_HOLE};
    uint64_t size;
    int ret = vd_storage_size(data->storage, &size, err);
    if (ret == 0 && size)
        ret = vd_storage_extent(data->storage, vd_range(0, size), &extent, err);
    if (ret < 0 || !size || (extent.kind == VD_STORAGE_HOLE && extent.length == size))
        return ret;
    return vd_err_set(
        err, EEXIST,
        "data file '%s': it is there already, and what it holds would be overwritten: "
        "name another, or remove it",
        data->path);
}

/* @name: of the image, which may not be there yet: then only now it shows that both are one. */
static int open_data(struct data_file *data, const char *name,
                     const struct vdisk_create_options *options, struct vdisk_error *err)
{
    struct vd_storage_options open = {.flags = VD_STORAGE_WRITE};
    struct vdisk_error inner = {0};
    if (!data->path)
        return 0;
    int ret = vd_storage_open(data->path, &open, &data->storage, &inner);
    if (ret == -ENOENT) {
        open.flags |= VD_STORAGE_CREATE | VD_STORAGE_EXCLUSIVE;
        vdisk_error_clear(&inner);
        ret = vd_storage_open(data->path, &open, &data->storage, &inner);
        data->is_new = ret == 0;
    }
    if (ret < 0)
        return vd_err_copy(err, &inner);
    if (data->is_new) {
        ret = check_is_other(data->path, "data file", name, err);
        if (ret < 0)
            return ret;
    }
    bool must_be_new = (options->flags & VDISK_CREATE_NEW_DATA) != 0;
    return must_be_new && !data->is_new ? check_holds_nothing(data, err) : 0;
}

/* A size that nobody gave is that of the data file, if it holds something, or of the backing disk.
 */
static int choose_size(const struct data_file *data, uint64_t backing_bytes, uint64_t *size,
                       struct vdisk_error *err)
{
    uint64_t data_bytes = 0;
    if (*size)
        return 0;
    int ret = data->storage ? vd_storage_size(data->storage, &data_bytes, err) : 0;
    if (ret == 0 && data_bytes == 0)
        *size = backing_bytes;
    return ret; /* 0: the format takes the data file as it is */
}

/* @keep: the image has been made. */
static void close_data(struct data_file *data, bool keep)
{
    vd_storage_close(data->storage);
    if (data->is_new && !keep)
        unlink(data->path);
    free(data->path);
}

static int create_on(struct vd_storage *file, struct vd_storage *data,
                     const struct vd_format_driver *driver,
                     const struct vdisk_create_options *options, bool is_durable,
                     struct vdisk_error *err)
{
    int ret = vd_format_create(driver, file, data, options, err);
    if (ret == 0 && is_durable && data)
        ret = vd_storage_flush(data, err);
    return ret == 0 && is_durable ? vd_storage_flush(file, err) : ret;
}

int vd_image_create_at(const char *place, const char *name, const struct vd_format_driver *driver,
                       const struct vdisk_create_options *options, bool is_durable,
                       struct vdisk_error *err)
{
    struct vd_storage_options storage_options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE |
                                                          (is_durable ? 0 : VD_STORAGE_UNSAFE)};
    struct vdisk_create_options create = *options;
    struct data_file data = {0};
    struct vd_storage *file;
    uint64_t backing_bytes = 0;
    int ret = find_data(&data, name, &create, err);
    if (ret == 0)
        ret = look_at_backing(name, data.path, &create, &backing_bytes, err);
    if (ret == 0)
        ret = open_data(&data, name, &create, err);
    if (ret == 0)
        ret = choose_size(&data, backing_bytes, &create.size, err);
    if (ret == 0)
        ret = vd_storage_open(place, &storage_options, &file, err);
    if (ret == 0) {
        ret = create_on(file, data.storage, driver, &create, is_durable, err);
        vd_storage_close(file);
    }
    if (ret == 0 && is_durable && data.is_new)
        ret = vd_new_file_sync_directory(data.path, err);
    close_data(&data, ret == 0);
    return ret;
}

int vd_image_expect_data(struct vd_image_new_data *data, const char *name,
                         const struct vdisk_create_options *options, struct vdisk_error *err)
{
    struct vd_named named;
    *data = (struct vd_image_new_data){0};
    if (!options->data_file)
        return 0;
    int ret = vd_named_resolve(&named, name, options->data_file, err);
    if (ret == 0 && access(named.path, F_OK) < 0 && errno == ENOENT)
        data->path = STEAL_PTR(named.path);
    vd_named_free(&named);
    return ret;
}

void vd_image_keep_data(struct vd_image_new_data *data)
{
    free(STEAL_PTR(data->path));
}

void vd_image_drop_data(struct vd_image_new_data *data)
{
    if (data->path)
        unlink(data->path);
    vd_image_keep_data(data);
}

/* Without a size, some file must be there that has one. */
static int check_size_is_told(const char *name, const struct vdisk_create_options *options,
                              struct vdisk_error *err)
{
    struct vd_image_new_data data;
    bool backing_tells = options->backing && !(options->flags & VDISK_CREATE_NO_CHECK);
    if (options->size || !options->data_file || backing_tells)
        return 0;
    int ret = vd_image_expect_data(&data, name, options, err);
    if (ret == 0 && data.path)
        ret =
            vd_err_set(err, EINVAL,
                       "%s: Image creation needs a size parameter: the data file '%s' is not there",
                       name, data.path);
    vd_image_keep_data(&data);
    return ret;
}

int vdisk_image_create(const char *name, const char *format,
                       const struct vdisk_create_options *options, struct vdisk_error *err)
{
    const struct vd_format_driver *driver;
    int ret = check_struct(options, err);
    if (ret == 0)
        ret = vd_image_check_backing_format(name, options, err);
    if (ret < 0)
        return ret;
    ret = vd_image_check_create(format, options, &driver, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", name);

    ret = check_size_is_told(name, options, err);
    if (ret < 0)
        return ret;

    struct vd_new_file file;
    struct vd_image_new_data data = {0};
    ret = vd_new_file_open(&file, name, err);
    if (ret == 0)
        ret = vd_image_expect_data(&data, name, options, err);
    if (ret == 0) {
        ret = vd_image_create_at(vd_new_file_place(&file), name, driver, options, true, err);
        if (ret < 0)
            vd_image_keep_data(&data); /* what is there now is not ours */
        if (ret < 0 && file.part_name)
            vd_err_prefix(err, ret, "%s: ", file.name);
    }
    if (ret == 0)
        ret = vd_new_file_publish(&file, true, err);
    /* An image that got its name keeps its data file, whatever else failed. */
    if (ret == 0 || !file.part_name)
        vd_image_keep_data(&data);
    vd_image_drop_data(&data);
    vd_new_file_abandon(&file);
    return ret;
}
