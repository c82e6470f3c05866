/* SPDX-License-Identifier: MIT */
/* Passwords and tokens, read from files so that no list of processes shows them. */
#include "cli/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/err.h"
#include "util/mem.h"

#define SECRET_BYTES_MAX 65536u

/* Reads up to @room bytes of @fd into @text; returns how many, or -1. */
static ssize_t read_all(int fd, char *text, size_t room)
{
    size_t done = 0;
    while (done < room) {
        ssize_t got = read(fd, text + done, room - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

int vd_secret_read(const char *file, char **secret, struct vdisk_error *err)
{
    CLEANUP_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_err_errno(err, errno, "%s", file);
    char *text = calloc(1, SECRET_BYTES_MAX + 1);
    if (!text)
        return vd_err_nomem(err, "a secret");

    ssize_t length = read_all(fd, text, SECRET_BYTES_MAX);
    int ret = 0;
    if (length < 0)
        ret = vd_err_errno(err, errno, "%s", file);
    text[strcspn(text, "\r\n")] = '\0';
    if (ret == 0 && (strlen(text) == 0 || strlen(text) >= SECRET_BYTES_MAX))
        ret = vd_err_set(err, EINVAL, "%s: the first line must have 1 to %u bytes", file,
                         SECRET_BYTES_MAX - 1);
    if (ret < 0)
        vd_secret_free(&text);
    *secret = text;
    return ret;
}

int vd_secret_read_fd(int fd, const char *what, char **bytes, size_t *length,
                      struct vdisk_error *err)
{
    char *text = calloc(1, SECRET_BYTES_MAX + 1);
    if (!text)
        return vd_err_nomem(err, "a secret");
    ssize_t got = read_all(fd, text, SECRET_BYTES_MAX + 1);
    int ret = 0;
    if (got < 0)
        ret = vd_err_errno(err, errno, "%s", what);
    else if (got > (ssize_t)SECRET_BYTES_MAX)
        ret = vd_err_set(err, EINVAL, "%s: is longer than %u bytes", what, SECRET_BYTES_MAX);
    if (ret < 0) {
        vd_secret_free_bytes(text, SECRET_BYTES_MAX + 1);
        return ret;
    }
    *bytes = text;
    *length = (size_t)got;
    return 0;
}

/* 0 .. 63, or -1. */
static int base64_value(char letter)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = letter ? strchr(alphabet, letter) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

int vd_secret_decode_base64(char *bytes, size_t *length, struct vdisk_error *err)
{
    size_t used = 0, letters = 0, pads = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < *length; i++) {
        int value = base64_value(bytes[i]);
        if (bytes[i] == '\n' || bytes[i] == '\r')
            continue;
        pads += bytes[i] == '=';
        if ((value < 0 && bytes[i] != '=') || (value >= 0 && pads))
            return vd_err_set(err, EINVAL, "what it has is not base64");
        bits = bits << 6 | (uint32_t)(value < 0 ? 0 : value);
        if (++letters % 4)
            continue;
        for (int shift = 16; shift >= 0; shift -= 8)
            bytes[used++] = (char)(bits >> shift & 0xff);
    }
    if (letters % 4 || pads > 2)
        return vd_err_set(err, EINVAL, "what it has is not base64");
    *length = used - pads;
    return 0;
}

void vd_secret_free_bytes(char *bytes, size_t length)
{
    if (bytes)
        explicit_bzero(bytes, length);
    free(bytes);
}

void vd_secret_free(char **secret)
{
    if (*secret)
        explicit_bzero(*secret, strlen(*secret));
    free(*secret);
    *secret = NULL;
}
