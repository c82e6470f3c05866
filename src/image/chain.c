/* SPDX-License-Identifier: MIT */
/* Opening an image and the images behind it. */
#include "image/chain.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/table_budget.h"
#include "image/gate.h"
#include "image/image_priv.h"
#include "util/mem.h"

/* A file that belongs to the chain. */
struct member {
    struct vd_storage_identity identity;
    const char *name; /* of the storage, which stays open */
};

/* What is known while the chain is being opened. */
struct chain {
    const struct vd_chain_options *options;
    struct vd_gate gate;
    struct member *members;
    size_t member_entries;
    struct vd_table_budget *budget; /* of all its images */
    unsigned level;
    const char *bearer; /* name of the image that is being opened */
    bool is_trusted;    /* the name that is being opened is the caller's */
};

static bool is_same(const struct member *a, const struct member *b)
{
    return vd_storage_identity_equals(a->identity, b->identity) ||
           (strcmp(a->name, b->name) == 0 && !vd_storage_name_is_local(a->name));
}

/* H2 */
static int check_is_new(const struct chain *chain, const struct member *member,
                        struct vdisk_error *err)
{
    for (size_t i = 0; i < chain->member_entries; i++)
        if (is_same(&chain->members[i], member))
            return vd_err_set(err, ELOOP,
                              "'%s' is the same file as '%s': a file can be in a chain of images "
                              "only once",
                              member->name, chain->members[i].name);
    return 0;
}

static int add_member(struct chain *chain, const struct vd_storage *storage,
                      struct vdisk_error *err)
{
    struct member member = {.identity = vd_storage_identity(storage),
                            .name = vd_storage_name(storage)};
    int ret = check_is_new(chain, &member, err);
    if (ret < 0)
        return ret;
    struct member *more =
        realloc(chain->members, (chain->member_entries + 1) * sizeof(*chain->members));
    if (!more)
        return vd_err_nomem(err, "a chain of images");
    chain->members = more;
    more[chain->member_entries++] = member;
    return 0;
}

/* Resolves @name, asks the gate, and opens.  *named is filled in, and the caller's to free. */
static int open_through_gate(struct chain *chain, const char *name,
                             const struct vd_storage_options *options, struct vd_named *named,
                             struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_gate_pass pass = {0};
    int ret = vd_named_resolve(named, chain->bearer, name, err);
    if (ret == 0 && !chain->is_trusted)
        ret = vd_gate_ask(&chain->gate, name, named, &pass, err);
    /* Before it is opened: the locks on it would be in the way of each other. */
    if (ret == 0)
        ret = check_is_new(
            chain,
            &(struct member){.identity = vd_storage_identify(named->path), .name = named->path},
            err);
    struct vd_storage_options how = *options;
    if (!chain->is_trusted)
        how.flags |= VD_STORAGE_NAMED;
    if (ret == 0)
        ret = vd_storage_open(named->path, &how, storage, err);
    if (ret < 0)
        return ret;
    ret = vd_gate_confirm(&pass, *storage, err);
    if (ret < 0)
        vd_storage_close(*storage);
    return ret;
}

/* H1.  @kind: for the message.  *format_name: what a json: name says, or NULL; the caller's. */
static int open_named(struct chain *chain, const char *kind, const char *name,
                      const struct vd_storage_options *options, struct vd_storage **storage,
                      char **format_name, struct vdisk_error *err)
{
    const struct vd_image_files *files = chain->options->files;
    struct vd_named named = {0};
    int ret = files ? files->open(files->opaque, chain->bearer, name, options, storage, err)
                    : open_through_gate(chain, name, options, &named, storage, err);
    if (format_name)
        *format_name = ret == 0 ? STEAL_PTR(named.format) : NULL;
    vd_named_free(&named);
    if (ret == 0) {
        ret = add_member(chain, *storage, err);
        if (ret < 0)
            vd_storage_close(*storage);
    }
    if (ret < 0 && format_name)
        free(STEAL_PTR(*format_name));
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", kind) : 0;
}

/* How the files of the image at the present level are opened. */
static int storage_options(const struct chain *chain, bool writable,
                           struct vd_storage_options *options, struct vdisk_error *err)
{
    struct vdisk_open_options open = *chain->options->open;
    open.flags &= ~(uint32_t)VDISK_OPEN_WRITE;
    if (writable) {
        open.flags |= VDISK_OPEN_WRITE;
        open.flags &= ~(uint32_t)VDISK_OPEN_SHARE;
    }
    return vd_image_storage_options(&open, options, err);
}

static int open_data(void *opaque, const char *name, bool writable, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    struct chain *chain = opaque;
    struct vd_storage_options options;
    int ret = storage_options(chain, writable, &options, err);
    return ret < 0 ? ret : open_named(chain, "data file", name, &options, storage, NULL, err);
}

static bool is_writable_level(const struct chain *chain)
{
    if (chain->level == 0)
        return (chain->options->open->flags & VDISK_OPEN_WRITE) != 0;
    return chain->level == chain->options->write_level;
}

/* Opens the format of @image, whose file is open, and takes in what it says of itself. */
static int open_format(struct chain *chain, struct vdisk_image *image,
                       const struct vd_format_driver *driver, struct vdisk_error *err)
{
    uint32_t flags = chain->options->open->flags;
    struct vd_format_files files = {.open_data = open_data, .opaque = chain};
    const struct vdisk_passphrases *top = chain->options->top_passphrases;
    struct vd_format_options options = {
        .cache_bytes = chain->options->open->cache_bytes,
        .budget = chain->budget,
        .files = &files,
        .passphrases = chain->level == 0 && top ? top : chain->options->open->passphrases,
    };
    if (chain->level == 0)
        options.snapshot = chain->options->open->snapshot;
    if (is_writable_level(chain))
        options.flags |= VD_FORMAT_WRITE;
    if (flags & (VDISK_OPEN_CHECK | VDISK_OPEN_FACTS))
        options.flags |= VD_FORMAT_CHECK;
    if (flags & VDISK_OPEN_FACTS)
        options.flags |= VD_FORMAT_FACTS;
    int ret = vd_format_open(driver, image->file, &options, &image->format, err);
    if (ret < 0)
        return ret;

    struct vd_format_info info;
    ret = vd_format_info(image->format, &info, err);
    if (ret < 0)
        return ret;
    image->cluster_bytes = info.cluster_bytes ? info.cluster_bytes : 1;
    image->encoded.keeps_clusters = !(flags & VDISK_OPEN_SHARE) && !is_writable_level(chain);
    return 0;
}

/* The format the caller named, or what the content looks like; never a guess of raw to write to. */
static int choose_top_format(const struct chain *chain, struct vd_storage *file,
                             const struct vd_format_driver **driver, struct vdisk_error *err)
{
    const struct vdisk_open_options *open = chain->options->open;
    if (open->format) {
        *driver = vd_format_find(open->format, err);
        return *driver ? 0 : -EINVAL;
    }
    int ret = vd_format_probe(file, driver, err);
    if (ret == 0 && !vd_format_driver_has_probe(*driver) && (open->flags & VDISK_OPEN_WRITE))
        return vd_err_set(err, EINVAL,
                          "%s: no known format found in it: name the format to write to it, raw "
                          "included (-f raw)",
                          vd_storage_name(file));
    return ret;
}

/* H3.  @name: of the format, NULL if nothing says it. */
static int choose_backing_format(const struct chain *chain, struct vd_storage *file,
                                 const char *name, const struct vd_format_driver **driver,
                                 struct vdisk_error *err)
{
    if (name) {
        *driver = vd_format_find(name, err);
        return *driver ? 0 : vd_err_prefix(err, -EINVAL, "%s: backing file: ", chain->bearer);
    }
    int ret = vd_format_probe(file, driver, err);
    if (ret < 0 || vd_format_driver_has_probe(*driver))
        return ret;
    if (chain->is_trusted && chain->options->backing)
        return vd_err_set(err, EINVAL,
                          "backing file '%s': no known format found in it: name the format, raw "
                          "included (-F raw)",
                          vd_storage_name(file));
    return vd_err_set(err, EINVAL,
                      "%s: does not say of which format its backing file '%s' is, and the "
                      "content looks like none: if it is raw, say so in the image with "
                      "'vdisk rebase -u -F raw -b %s %s'",
                      chain->bearer, vd_storage_name(file), vd_storage_name(file), chain->bearer);
}

static int new_image(struct vd_storage *file, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_image *img = calloc(1, sizeof(*img));
    if (!img) {
        vd_storage_close(file);
        return vd_err_nomem(err, "an image");
    }
    img->file = file;
    vd_guard_init(&img->guard);
    vd_run_init(&img->known_backing);
    vd_ahead_init(&img->ahead);
    vd_encoded_init(&img->encoded);
    vd_mutex_init(&img->info_lock);
    *image = img;
    return 0;
}

/* What is behind @image: by its own word, or by the caller's. */
static int find_backing(struct chain *chain, struct vdisk_image *image, struct vd_backing *backing,
                        struct vdisk_error *err)
{
    const struct vd_backing *instead = chain->level == 0 ? chain->options->backing : NULL;
    struct vd_format_info info;
    int ret = instead ? 0 : vd_format_info(image->format, &info, err);
    if (ret < 0)
        return ret;
    *backing = instead
                   ? *instead
                   : (struct vd_backing){.name = info.backing_name, .format = info.backing_format};
    chain->is_trusted = instead || (chain->level == 0 && chain->options->trusts_names);
    return 0;
}

/* Opens the image behind @image, if it names one. */
static int open_backing(struct chain *chain, struct vdisk_image *image, struct vdisk_error *err)
{
    struct vd_backing backing;
    int ret = find_backing(chain, image, &backing, err);
    if (ret < 0 || !backing.name)
        return ret;
    unsigned images_max = chain->options->images_max
                              ? chain->options->images_max
                              : vd_gate_images_max(chain->options->open->gate);
    if (chain->level + 1 >= images_max)
        return vd_err_set(
            err, ELOOP,
            "%s: names a backing file, and it is number %u of its chain: the limit is "
            "%u images",
            chain->bearer, chain->level + 1, images_max);

    struct vd_storage_options options;
    struct vd_storage *file;
    CLEANUP_FREE char *json_format = NULL;
    chain->level++;
    ret = storage_options(chain, is_writable_level(chain), &options, err);
    chain->level--;
    if (ret == 0)
        ret = open_named(chain, "backing file", backing.name, &options, &file, &json_format, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", chain->bearer);
    if (chain->is_trusted && !chain->options->files)
        ret = vd_gate_trust_beside(&chain->gate, vd_storage_name(file), true, err);
    const struct vd_format_driver *driver = NULL;
    if (ret == 0)
        ret = choose_backing_format(chain, file, backing.format ? backing.format : json_format,
                                    &driver, err);
    chain->is_trusted = false;
    if (ret < 0) {
        vd_storage_close(file);
        return ret;
    }
    ret = new_image(file, &image->backing, err);
    if (ret < 0)
        return ret;
    const char *overlay = chain->bearer;
    chain->level++;
    chain->bearer = vd_storage_name(file);
    ret = open_format(chain, image->backing, driver, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: backing file: ", overlay) : 0;
}

static int open_levels(struct chain *chain, struct vdisk_image *top, struct vdisk_error *err)
{
    const struct vd_format_driver *driver;
    chain->bearer = vd_storage_name(top->file);
    chain->is_trusted = chain->options->trusts_names;
    int ret = choose_top_format(chain, top->file, &driver, err);
    if (ret == 0 && !chain->options->files)
        ret = vd_gate_trust_beside(&chain->gate, chain->bearer, chain->options->trusts_names, err);
    if (ret == 0)
        ret = add_member(chain, top->file, err);
    if (ret == 0)
        ret = open_format(chain, top, driver, err);
    bool wants_backing = !(chain->options->open->flags &
                           (VDISK_OPEN_NO_BACKING | VDISK_OPEN_CHECK | VDISK_OPEN_FACTS));
    for (struct vdisk_image *image = top; ret == 0 && image && wants_backing;
         image = image->backing)
        ret = open_backing(chain, image, err);
    return ret;
}

int vd_image_open_chain_on(struct vd_storage *file, const struct vd_chain_options *options,
                           struct vdisk_image **image, struct vdisk_error *err)
{
    struct chain chain = {.options = options};
    struct vdisk_image *top;
    int ret = new_image(file, &top, err);
    if (ret < 0)
        return ret;
    chain.budget = vd_table_budget_new(options->open->cache_bytes);
    if (!chain.budget)
        ret = vd_err_nomem(err, "a chain of images");
    vd_gate_init(&chain.gate, options->open->gate);
    if (ret == 0)
        ret = vd_gate_check_policy(options->open->gate, err);
    if (ret == 0)
        ret = open_levels(&chain, top, err);
    vd_table_budget_release(chain.budget);
    vd_gate_destroy(&chain.gate);
    free(chain.members);
    if (ret < 0) {
        vdisk_image_close(top, NULL);
        return ret;
    }
    top->is_constant = !(options->open->flags & (VDISK_OPEN_WRITE | VDISK_OPEN_SHARE)) &&
                       options->write_level == 0;
    *image = top;
    return 0;
}

int vd_image_open_chain(const char *name, const struct vd_chain_options *options,
                        struct vdisk_image **image, struct vdisk_error *err)
{
    struct vd_storage_options storage_options;
    struct vd_storage *file;
    int ret = vd_image_storage_options(options->open, &storage_options, err);
    if (ret == 0)
        ret = vd_storage_open(name, &storage_options, &file, err);
    return ret < 0 ? ret : vd_image_open_chain_on(file, options, image, err);
}
