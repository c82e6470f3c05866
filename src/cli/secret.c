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

void vd_secret_free(char **secret)
{
    if (*secret)
        explicit_bzero(*secret, strlen(*secret));
    free(*secret);
    *secret = NULL;
}
