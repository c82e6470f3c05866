/* SPDX-License-Identifier: MIT */
/* JSON files with a seal: docs/formats/backup.md, "Sealed files". */
#include "backup/sealed.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "storage/new_file.h"
#include "util/mem.h"
#include "util/range.h"

/* What a file may make of our memory: the parser calls itself for what is nested, and takes about
 * a hundred bytes for a value. */
#define DEPTH_MAX  16u
#define VALUES_MAX (512u * 1024)

#define MARK       "\n  \"seal\": \""
#define MARK_LINE  (sizeof(MARK) - 2) /* without the newline, which is sealed too */
#define TAIL       "\"\n}\n"
#define XXH128     "xxh128:"
#define HMAC       "hmac-sha256:"

/* With the word, the digits, the line around them and a NUL. */
#define SEAL_BYTES_MAX (sizeof(HMAC) + 2 * VD_SHA256_BYTES)
#define END_BYTES_MAX  (sizeof(MARK) + SEAL_BYTES_MAX + sizeof(TAIL))

static bool has_key(const struct vd_seal_key *key)
{
    return key && key->bytes;
}

/* @seal: SEAL_BYTES_MAX */
static int make_seal(const char *text, size_t length, const struct vd_seal_key *key, char *seal,
                     struct vdisk_error *err)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    bool is_keyed = has_key(key);
    int ret = is_keyed ? vd_hmac_sha256(key->bytes, key->length, text, length, digest, err)
                       : vd_digest(VD_DIGEST_XXH128, text, length, digest, err);
    if (ret < 0)
        return ret;
    vd_hex_write(digest, is_keyed ? VD_SHA256_BYTES : vd_digest_bytes(VD_DIGEST_XXH128), hex);
    snprintf(seal, SEAL_BYTES_MAX, "%s%s", is_keyed ? HMAC : XXH128, hex);
    return 0;
}

/* "{...}" becomes "{...,\n  "seal": "..."\n}\n".  The result is to be freed. */
static int seal_text(const json_t *object, const struct vd_seal_key *key, char **sealed,
                     size_t *sealed_bytes, struct vdisk_error *err)
{
    char seal[SEAL_BYTES_MAX];
    assert(json_is_object(object) && !json_object_get(object, "seal"));
    CLEANUP_FREE char *plain = json_dumps(object, JSON_INDENT(2));
    if (!plain)
        return vd_err_nomem(err, "JSON");
    size_t used = strlen(plain) - 1; /* without the brace */
    bool is_empty = json_object_size(object) == 0;
    if (!is_empty)
        used--; /* nor the newline before it */
    char *text = malloc(used + 2 + END_BYTES_MAX);
    if (!text)
        return vd_err_nomem(err, "JSON");
    memcpy(text, plain, used);
    if (!is_empty)
        text[used++] = ',';
    text[used++] = '\n';
    int ret = make_seal(text, used, key, seal, err);
    if (ret < 0) {
        free(text);
        return ret;
    }
    *sealed_bytes =
        used + (size_t)snprintf(text + used, END_BYTES_MAX, "%s%s%s", &MARK[1], seal, TAIL);
    *sealed = text;
    return 0;
}

static int write_all(int fd, const char *name, const char *text, size_t length,
                     struct vdisk_error *err)
{
    while (length) {
        ssize_t done = write(fd, text, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return vd_err_errno(err, done < 0 ? errno : EIO, "%s: can not write it", name);
        text += done;
        length -= (size_t)done;
    }
    if (fsync(fd) < 0)
        return vd_err_errno(err, errno, "%s: can not make it durable", name);
    return 0;
}

int vd_sealed_write(const char *name, const json_t *object, const struct vd_seal_key *key,
                    struct vdisk_error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t length = 0;
    int ret = seal_text(object, key, &text, &length, err);
    if (ret < 0)
        return ret;
    CLEANUP_CLOSE int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return vd_err_errno(err, errno, "%s: can not make it", name);
    return write_all(fd, name, text, length, err);
}

int vd_sealed_replace(const char *name, const json_t *object, const struct vd_seal_key *key,
                      struct vdisk_error *err)
{
    CLEANUP_FREE char *part = NULL;
    if (asprintf(&part, "%s.part", name) < 0) {
        part = NULL;
        return vd_err_nomem(err, "a file name");
    }
    int ret = vd_sealed_write(part, object, key, err);
    if (ret == 0 && rename(part, name) < 0)
        ret = vd_err_errno(err, errno, "%s: can not rename it to %s", part, name);
    if (ret < 0) {
        unlink(part);
        return ret;
    }
    return vd_new_file_sync_directory(name, err);
}

/* @text: to be freed, with a NUL behind it. */
static int read_all(const char *name, uint64_t bytes_max, char **text, size_t *length,
                    struct vdisk_error *err)
{
    struct stat st;
    /* Without waiting for somebody to open a pipe of this name. */
    CLEANUP_CLOSE int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP)
        return vd_err_set(err, EBADMSG, "%s: it is a symbolic link", name);
    if (fd < 0 || fstat(fd, &st) < 0)
        return vd_err_errno(err, errno, "%s: can not open it", name);
    if (!S_ISREG(st.st_mode))
        return vd_err_set(err, EBADMSG, "%s: it is no file", name);
    if ((uint64_t)st.st_size > bytes_max)
        return vd_err_set(err, EBADMSG, "%s: it has %lld bytes: at most %" PRIu64 " are taken",
                          name, (long long)st.st_size, bytes_max);
    size_t room = (size_t)st.st_size;
    CLEANUP_FREE char *bytes = malloc(room + 1);
    if (!bytes)
        return vd_err_nomem(err, name);
    size_t done = 0;
    while (done < room) {
        ssize_t got = read(fd, bytes + done, room - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "%s: can not read it", name);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    bytes[done] = '\0';
    *text = STEAL_PTR(bytes);
    *length = done;
    return 0;
}

/* The budget: see DEPTH_MAX. */
static int check_budget(const char *name, const char *text, size_t length, struct vdisk_error *err)
{
    unsigned depth = 0;
    size_t values = 0;
    bool is_quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (is_quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                is_quoted = false;
            continue;
        }
        if (c == '"')
            is_quoted = true;
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth)
            depth--;
        if (c == '{' || c == '[' || c == ',' || c == ':')
            values++;
        if (depth > DEPTH_MAX)
            return vd_err_set(err, EBADMSG, "%s: at byte %zu it is nested deeper than %u levels",
                              name, i, DEPTH_MAX);
        if (values > VALUES_MAX)
            return vd_err_set(err, EBADMSG, "%s: it has more than %u values", name, VALUES_MAX);
    }
    return 0;
}

/* Where the line of the seal begins, or 0: there is none. */
static size_t find_seal(const char *text, size_t length)
{
    size_t start = length > END_BYTES_MAX ? length - END_BYTES_MAX : 0;
    const char *at = memmem(text + start, length - start, MARK, strlen(MARK));
    return at ? (size_t)(at - text) + 1 : 0;
}

/* Is @end (the rest of the text from the line of the seal on) what belongs there for @seal? */
static bool ends_with(const char *end, size_t length, const char *seal)
{
    char wanted[END_BYTES_MAX];
    int wanted_bytes = snprintf(wanted, sizeof(wanted), "%s%s%s", &MARK[1], seal, TAIL);
    return length == (size_t)wanted_bytes && memcmp(end, wanted, length) == 0;
}

/* Has it the form of a seal of @word? */
static bool is_seal_of(const char *end, size_t length, const char *word, size_t digest_bytes)
{
    size_t used = MARK_LINE + strlen(word) + 2 * digest_bytes;
    if (length != used + strlen(TAIL) || memcmp(end + MARK_LINE, word, strlen(word)) != 0 ||
        memcmp(end + used, TAIL, strlen(TAIL)) != 0)
        return false;
    return strspn(end + MARK_LINE + strlen(word), "0123456789abcdef") == 2 * digest_bytes;
}

static int check_seal(const char *name, const char *text, size_t length, size_t sealed,
                      const struct vd_seal_key *key, struct vdisk_error *err)
{
    char seal[SEAL_BYTES_MAX];
    const char *end = text + sealed;
    size_t end_bytes = length - sealed;
    bool is_plain = is_seal_of(end, end_bytes, XXH128, vd_digest_bytes(VD_DIGEST_XXH128));
    bool is_keyed = is_seal_of(end, end_bytes, HMAC, VD_SHA256_BYTES);
    if (!is_plain && !is_keyed)
        return vd_err_set(err, EBADMSG, "%s: its seal is damaged", name);
    if (is_keyed && !has_key(key))
        return vd_err_set(err, EKEYREJECTED, "%s: it is sealed with a key, and none was given",
                          name);
    if (is_plain && has_key(key))
        return vd_err_set(err, EKEYREJECTED,
                          "%s: it is sealed without a key, and one was given: whoever can write to "
                          "it may have made it",
                          name);
    int ret = make_seal(text, sealed, key, seal, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", name);
    if (ends_with(end, end_bytes, seal))
        return 0;
    if (is_keyed)
        return vd_err_set(err, EKEYREJECTED, "%s: it was sealed with another key, or was changed",
                          name);
    return vd_err_set(err, EBADMSG, "%s: it is not what was written: its seal does not fit", name);
}

int vd_sealed_parse(const char *name, const char *text, size_t length,
                    const struct vd_seal_key *key, json_t **object, struct vdisk_error *err)
{
    size_t sealed = find_seal(text, length);
    if (!sealed)
        return vd_err_set(err, EBADMSG, "%s: it has no seal at its end: it is cut off or damaged",
                          name);
    int ret = check_seal(name, text, length, sealed, key, err);
    if (ret == 0)
        ret = check_budget(name, text, length, err);
    if (ret < 0)
        return ret;
    json_error_t parse;
    json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES, &parse);
    if (!value || !json_is_object(value) || json_object_del(value, "seal") < 0) {
        json_decref(value);
        return vd_err_set(err, EBADMSG, "%s: line %d: %s", name, value ? 1 : parse.line,
                          value ? "it is no JSON object with a seal" : parse.text);
    }
    *object = value;
    return 0;
}

int vd_sealed_read(const char *name, const struct vd_seal_key *key, uint64_t bytes_max,
                   json_t **object, struct vdisk_error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t length = 0;
    int ret = read_all(name, bytes_max, &text, &length, err);
    return ret < 0 ? ret : vd_sealed_parse(name, text, length, key, object, err);
}
