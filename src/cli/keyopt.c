/* SPDX-License-Identifier: MIT */
/*
 * Passphrases for encrypted images: --passphrase-file, --passphrase-fd, and qemu-img's --object.
 *
 * The two former end at one newline less, as a file that was made by echo has one too many; the
 * latter takes the file as it is, as qemu-img does.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/optlist.h"
#include "cli/secret.h"
#include "util/err.h"
#include "util/mem.h"

void vd_cli_keys_init(struct vd_cli *cli)
{
    cli->keys = (struct vd_cli_keys){.list = {.struct_bytes = sizeof(cli->keys.list)}};
}

void vd_cli_keys_destroy(struct vd_cli *cli)
{
    struct vd_cli_keys *keys = &cli->keys;
    for (size_t i = 0; i < keys->entries; i++) {
        vd_secret_free_bytes((char *)(uintptr_t)keys->passphrases[i].bytes,
                             keys->passphrases[i].length);
        free(keys->ids[i]);
    }
    free(keys->passphrases);
    free((void *)keys->ids);
    vd_cli_keys_init(cli);
}

/* Takes over @bytes and @id, also if it fails. */
static int add(struct vd_cli *cli, char *bytes, size_t length, char *id)
{
    struct vd_cli_keys *keys = &cli->keys;
    size_t entries = keys->entries + 1;
    struct vdisk_passphrase *passphrases =
        realloc(keys->passphrases, entries * sizeof(*passphrases));
    if (passphrases)
        keys->passphrases = passphrases;
    char **ids = realloc((void *)keys->ids, entries * sizeof(*ids));
    if (ids)
        keys->ids = ids;
    if (!passphrases || !ids) {
        vd_secret_free_bytes(bytes, length);
        free(id);
        vd_cli_error("out of memory for a passphrase");
        return 1;
    }
    keys->passphrases[keys->entries] = (struct vdisk_passphrase){bytes, length};
    keys->ids[keys->entries] = id;
    keys->entries = entries;
    keys->list.list = passphrases;
    keys->list.entries = entries;
    return VD_CLI_GO;
}

/* Reads @fd, without the newline that may be at its end. */
static int take_fd(struct vd_cli *cli, const char *option, const char *what, int fd)
{
    struct vdisk_error err = {0};
    size_t length;
    char *bytes;
    if (vd_secret_read_fd(fd, what, &bytes, &length, &err) < 0) {
        vd_cli_error("%s: %s", option, err.message);
        return 1;
    }
    if (length && bytes[length - 1] == '\n')
        length--;
    if (length == 0) {
        vd_secret_free_bytes(bytes, 0);
        vd_cli_error("%s: %s: there is no passphrase in it", option, what);
        return 1;
    }
    return add(cli, bytes, length, NULL);
}

int vd_cli_keys_file(struct vd_cli *cli, const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return take_fd(cli, "--passphrase-file", path, fd);
    vd_cli_error("--passphrase-file: %s: %s", path, strerror(errno));
    return 1;
}

int vd_cli_keys_fd(struct vd_cli *cli, const char *text)
{
    uint64_t fd;
    char what[64];
    int status = vd_cli_parse_number(cli, "--passphrase-fd", text, 0, INT32_MAX, &fd);
    if (status != VD_CLI_GO)
        return status;
    snprintf(what, sizeof(what), "file descriptor %d", (int)fd);
    return take_fd(cli, "--passphrase-fd", what, (int)fd);
}

/* What an --object secret says. */
struct object {
    const char *id;
    const char *file; /* or data */
    const char *data;
    bool is_base64;
};

static int read_object(const struct object *object, char **bytes, size_t *length,
                       struct vdisk_error *err)
{
    if (object->data) {
        *length = strlen(object->data);
        *bytes = strdup(object->data);
        return *bytes ? 0 : vd_err_nomem(err, "a passphrase");
    }
    CLEANUP_CLOSE int fd = open(object->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_err_errno(err, errno, "%s", object->file);
    return vd_secret_read_fd(fd, object->file, bytes, length, err);
}

/* The file or the word as it is; base64 is decoded. */
static int add_object(struct vd_cli *cli, const struct object *object)
{
    struct vdisk_error err = {0};
    size_t length = 0;
    char *bytes = NULL;
    int ret = read_object(object, &bytes, &length, &err);
    if (ret == 0 && object->is_base64)
        ret = vd_secret_decode_base64(bytes, &length, &err);
    char *id = ret == 0 ? strdup(object->id) : NULL;
    if (ret == 0 && !id)
        ret = vd_err_nomem(&err, "a passphrase");
    if (ret == 0)
        return add(cli, bytes, length, id);
    vd_secret_free_bytes(bytes, length);
    vd_cli_error("--object secret: id=%s: %s", object->id, err.message);
    return 1;
}

static int take_object(struct vd_cli *cli, struct vd_optlist *list)
{
    bool is_secret =
        list->entry_count && !list->entries[0].value && strcmp(list->entries[0].key, "secret") == 0;
    if (is_secret)
        list->entries[0].is_taken = true;
    const char *type = vd_optlist_take(list, "qom-type");
    struct object object = {.id = vd_optlist_take(list, "id"),
                            .file = vd_optlist_take(list, "file"),
                            .data = vd_optlist_take(list, "data")};
    const char *format = vd_optlist_take(list, "format");
    if (!is_secret && !(type && strcmp(type, "secret") == 0))
        return vd_cli_usage_error(cli, "--object: the kind that there is, is 'secret'");
    const struct vd_optlist_entry *left = vd_optlist_left_over(list);
    if (left)
        return vd_cli_usage_error(cli, "--object secret: '%s' is not supported", left->key);
    if (!object.id || !*object.id || !object.file == !object.data)
        return vd_cli_usage_error(cli, "--object secret: id=ID and file=PATH are wanted");
    object.is_base64 = format && strcmp(format, "base64") == 0;
    if (format && !object.is_base64 && strcmp(format, "raw") != 0)
        return vd_cli_usage_error(cli, "--object secret: format '%s' is neither raw nor base64",
                                  format);
    if (vd_cli_keys_find(cli, object.id))
        return vd_cli_usage_error(cli, "--object secret: there are two with the id '%s'",
                                  object.id);
    return add_object(cli, &object);
}

int vd_cli_keys_object(struct vd_cli *cli, const char *text)
{
    struct vd_optlist list = {0};
    struct vdisk_error err = {0};
    int status =
        vd_optlist_parse(&list, text, &err) < 0 ? vd_cli_fail(&err) : take_object(cli, &list);
    vd_optlist_free(&list);
    return status;
}

const struct vdisk_passphrase *vd_cli_keys_find(const struct vd_cli *cli, const char *id)
{
    for (size_t i = 0; i < cli->keys.entries; i++)
        if (cli->keys.ids[i] && strcmp(cli->keys.ids[i], id) == 0)
            return &cli->keys.passphrases[i];
    return NULL;
}

const struct vdisk_passphrase *vd_cli_keys_only(const struct vd_cli *cli)
{
    return cli->keys.entries == 1 ? &cli->keys.passphrases[0] : NULL;
}

void vd_cli_keys_reserve(struct vd_cli *cli, const char *id)
{
    struct vd_cli_keys *keys = &cli->keys;
    for (size_t i = 0; i < keys->entries && keys->entries > 1; i++)
        if (keys->ids[i] && strcmp(keys->ids[i], id) == 0) {
            struct vdisk_passphrase passphrase = keys->passphrases[i];
            char *word = keys->ids[i];
            size_t last = keys->entries - 1;
            keys->passphrases[i] = keys->passphrases[last];
            keys->ids[i] = keys->ids[last];
            keys->passphrases[last] = passphrase;
            keys->ids[last] = word;
            keys->list.entries = last;
            return;
        }
}
