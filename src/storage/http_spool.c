/* SPDX-License-Identifier: MIT */
/*
 * A server that does not know byte ranges: the whole file comes in one sequential GET, by a thread
 * of its own, into a temporary file without a name, and reads wait until their bytes are there.
 *
 * P1  Bytes below `arrived` are in the temporary file and never change.
 * P2  After a broken line the file comes again from its start; what is there already is compared,
 *     not written, so that two versions of the file are never mixed unnoticed.
 * P3  A failure is for good: the thread has ended, every read that wants more gets the error.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "storage/http_priv.h"
#include "util/iov.h"
#include "util/mem.h"

struct vd_http_spool {
    struct vd_http_request request;
    struct vd_http *http;
    struct vd_http_conn *conn;
    int fd;
    uint64_t position; /* in the file, of this try: the thread's own */
    pthread_t thread;
    atomic_bool stop;
    struct vd_mutex lock; /* after: none */
    struct vd_cond changed;
    bool is_started;            /* under lock, as all below */
    uint64_t arrived;           /* bytes */
    uint64_t wake_at;           /* the least that a waiting read wants to have arrived */
    struct vdisk_error failure; /* code 0: none */
};

/* A file that nobody else can see and that is gone when it is closed. */
static int open_temporary(struct vdisk_error *err)
{
    const char *const folders[] = {secure_getenv("TMPDIR"), "/var/tmp", "/tmp"};
    int code = ENOENT;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        if (!folders[i] || !folders[i][0])
            continue;
        int fd = open(folders[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0)
            return fd;
        code = errno;
    }
    return vd_err_errno(err, code,
                        "the server does not serve ranges of bytes, and no temporary file for all "
                        "of it can be made in $TMPDIR, /var/tmp or /tmp");
}

static int write_all(int fd, const uint8_t *data, size_t length, uint64_t offset,
                     struct vdisk_error *err)
{
    while (length) {
        ssize_t put = pwrite(fd, data, length, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return vd_err_errno(err, errno,
                                "the server does not serve ranges of bytes, and the temporary "
                                "file for all of it can not be written at offset %" PRIu64
                                " ($TMPDIR says where it is)",
                                offset);
        data += put;
        length -= (size_t)put;
        offset += (uint64_t)put;
    }
    return 0;
}

/* P2 */
static int compare(const struct vd_http_spool *spool, const uint8_t *data, size_t length,
                   struct vdisk_error *err)
{
    uint8_t there[4096];
    uint64_t offset = spool->position;
    while (length) {
        size_t step = length < sizeof(there) ? length : sizeof(there);
        ssize_t got = pread(spool->fd, there, step, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return vd_err_errno(err, got < 0 ? errno : EIO, "reading the temporary file");
        if (memcmp(there, data, (size_t)got) != 0)
            return vd_err_set(err, ESTALE,
                              "the file has changed on the server while it was fetched: open it "
                              "again");
        data += got;
        length -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int spool_begin(struct vd_http_request *request, const struct vd_http_head *head,
                       struct vdisk_error *err)
{
    struct vd_http_spool *spool = (struct vd_http_spool *)request;
    const struct vd_http_file *file = &spool->http->file;
    if (head->status != 200 && (head->status < 200 || head->status >= 300))
        return vd_http_status_error(spool->http, request, head, err);
    int ret = vd_http_check_head(head, err);
    if (ret == 0 && head->status != 200)
        ret = vd_err_set(err, EIO, "the server answers status %u to a request for all of the file",
                         head->status);
    if (ret == 0)
        ret = vd_http_check_same(file, head, err);
    if (ret == 0 && head->has_length && head->length != file->size)
        ret = vd_err_set(err, ESTALE,
                         "the file has changed on the server while it was fetched (its size was "
                         "%" PRIu64 ", is %" PRIu64 "): open it again",
                         file->size, head->length);
    request->expected_bytes = file->size;
    spool->position = 0;
    return ret;
}

static int spool_take(struct vd_http_request *request, const uint8_t *data, size_t length,
                      struct vdisk_error *err)
{
    struct vd_http_spool *spool = (struct vd_http_spool *)request;
    uint64_t arrived = request->done_bytes;
    size_t known = 0;
    if (spool->position < arrived)
        known = (size_t)vd_min(length, arrived - spool->position);
    int ret = compare(spool, data, known, err);
    if (ret == 0)
        ret = write_all(spool->fd, data + known, length - known, spool->position + known, err);
    if (ret < 0) {
        request->may_retry = false;
        return ret;
    }
    spool->position += length;
    request->done_bytes += length - known;

    vd_mutex_lock(&spool->lock);
    spool->arrived = request->done_bytes;
    if (spool->arrived >= spool->wake_at) {
        spool->wake_at = UINT64_MAX;
        vd_cond_broadcast(&spool->changed);
    }
    vd_mutex_unlock(&spool->lock);
    return 0;
}

static void *spool_thread(void *opaque)
{
    struct vd_http_spool *spool = opaque;
    struct vdisk_error failure = {0};
    vd_http_run(spool->conn, &spool->request, &failure);

    vd_mutex_lock(&spool->lock);
    spool->failure = failure; /* P3 */
    vd_cond_broadcast(&spool->changed);
    vd_mutex_unlock(&spool->lock);
    return NULL;
}

int vd_http_spool_new(struct vd_http *http, struct vd_http_conn *conn, uint64_t position,
                      struct vdisk_error *err)
{
    CLEANUP_CLOSE int fd = open_temporary(err);
    int ret = fd < 0 ? fd : write_all(fd, http->head, http->head_bytes, 0, err);
    struct vd_http_spool *spool = ret < 0 ? NULL : calloc(1, sizeof(*spool));
    if (ret == 0 && !spool)
        ret = vd_err_nomem(err, "a temporary file");
    if (ret < 0) {
        vd_http_conn_put(conn);
        return ret;
    }
    spool->http = http;
    spool->conn = conn;
    spool->fd = fd;
    fd = -1;
    spool->position = position;
    spool->arrived = http->head_bytes;
    spool->wake_at = UINT64_MAX;
    spool->request = (struct vd_http_request){
        .begin = spool_begin,
        .take = spool_take,
        .stop = &spool->stop,
        .done_bytes = http->head_bytes,
        .expected_bytes = http->file.size,
    };
    vd_mutex_init(&spool->lock);
    vd_cond_init(&spool->changed);
    http->spool = spool;
    return 0;
}

void vd_http_spool_free(struct vd_http_spool *spool)
{
    if (!spool)
        return;
    if (spool->is_started) {
        atomic_store(&spool->stop, true);
        vd_http_conn_wake(spool->conn);
        pthread_join(spool->thread, NULL);
    }
    vd_http_conn_put(spool->conn);
    vd_cond_destroy(&spool->changed);
    vd_mutex_destroy(&spool->lock);
    close(spool->fd);
    free(spool);
}

static int start_locked(struct vd_http_spool *spool, struct vdisk_error *err)
    VD_REQUIRES(spool->lock);
static int start_locked(struct vd_http_spool *spool, struct vdisk_error *err)
{
    if (spool->is_started)
        return 0;
    int code = pthread_create(&spool->thread, NULL, spool_thread, spool);
    if (code)
        return vd_err_errno(err, code, "no thread to fetch the file with");
    spool->is_started = true;
    return 0;
}

static int wait_for(struct vd_http_spool *spool, uint64_t end, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&spool->lock);
    if (spool->arrived < end)
        ret = start_locked(spool, err);
    while (ret == 0 && spool->arrived < end && !spool->failure.code) {
        spool->wake_at = vd_min(spool->wake_at, end);
        vd_cond_wait(&spool->changed, &spool->lock);
    }
    if (ret == 0 && spool->arrived < end)
        ret = vd_err_copy(err, &spool->failure);
    vd_mutex_unlock(&spool->lock);
    return ret;
}

int vd_http_spool_read(struct vd_http_spool *spool, const struct iovec *iov, int iov_entries,
                       struct vd_range range, struct vdisk_error *err)
{
    int ret = wait_for(spool, vd_range_end(range), err);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        size_t done = 0;
        while (done < iov[i].iov_len) {
            ssize_t got = pread(spool->fd, (uint8_t *)iov[i].iov_base + done, iov[i].iov_len - done,
                                (off_t)(range.offset + done));
            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                return vd_err_errno(err, got < 0 ? errno : EIO, "reading the temporary file");
            done += (size_t)got;
        }
        range = vd_range(range.offset + done, range.length - done);
    }
    return ret;
}
