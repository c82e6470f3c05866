/* SPDX-License-Identifier: MIT */
/*
 * storage/file: what the contract can not see: kinds of files, names, flushes that fail, transfers
 * that stop half way, and how many system calls a request costs.
 *
 * The functions of the C library that the driver calls are defined here, so that they count, and
 * fail when a test says so.
 */
#include "drivers/check.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "storage/storage.h"
#include "util/iov.h"

static char folder[200];

/* What the replaced calls do, and what was asked of them. */
static struct {
    size_t transfer_max;   /* bytes of one read or write; 0: no limit */
    unsigned interrupt;    /* every so many calls end in EINTR; 0: none */
    int write_error;       /* pwritev() fails with it */
    int data_sync_error;   /* fdatasync() fails with it */
    int range_sync_error;  /* sync_file_range() that waits, likewise */
    int copy_error;        /* copy_file_range() fails with it after the first piece */
    size_t copy_max;       /* bytes of one piece */
    int fallocate_error;   /* for the refused; 0: EOPNOTSUPP */
    int fallocate_refused; /* modes with any of these bits, -1: any */
    unsigned transfers, sizes, data_syncs, name_syncs, copies, fallocates;
} calls;

static bool interrupted(void)
{
    return calls.interrupt && ++calls.transfers % calls.interrupt == 0;
}

/* The first bytes of @iov, as far as one transfer goes. */
static int shorten(struct iovec *part, const struct iovec *iov, int count)
{
    size_t length = vd_iov_length(iov, count);
    if (calls.transfer_max && length > calls.transfer_max)
        length = calls.transfer_max;
    return vd_iov_part(part, iov, count, 0, length);
}

static ssize_t transfer(long number, int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec part[IOV_MAX];
    calls.transfers += calls.interrupt == 0;
    if (interrupted()) {
        errno = EINTR;
        return -1;
    }
    if (count > IOV_MAX) {
        errno = EINVAL;
        return -1;
    }
    count = shorten(part, iov, count);
    return syscall(number, fd, part, count, offset, 0);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    return transfer(SYS_preadv, fd, iov, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (calls.write_error) {
        errno = calls.write_error;
        calls.write_error = 0;
        return -1;
    }
    return transfer(SYS_pwritev, fd, iov, count, offset);
}

int fstat(int fd, struct stat *st)
{
    calls.sizes++;
    return fstatat(fd, "", st, AT_EMPTY_PATH);
}

int fdatasync(int fd)
{
    calls.data_syncs++;
    if (calls.data_sync_error) {
        errno = calls.data_sync_error;
        calls.data_sync_error = 0; /* the kernel tells each error once */
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        calls.name_syncs++;
    return (int)syscall(SYS_fsync, fd);
}

int sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
    if (calls.range_sync_error && (flags & SYNC_FILE_RANGE_WAIT_AFTER)) {
        errno = calls.range_sync_error;
        calls.range_sync_error = 0;
        return -1;
    }
    return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    calls.fallocates++;
    if (calls.fallocate_refused == -1 || (calls.fallocate_refused & mode)) {
        errno = calls.fallocate_error ? calls.fallocate_error : EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

ssize_t copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset, size_t length,
                        unsigned flags)
{
    if (calls.copies++ && calls.copy_error) {
        errno = calls.copy_error;
        return -1;
    }
    if (calls.copy_max && length > calls.copy_max)
        length = calls.copy_max;
    return syscall(SYS_copy_file_range, in, in_offset, out, out_offset, length, flags);
}

static void forget_calls(void)
{
    memset(&calls, 0, sizeof(calls));
}

static int setup(void **state)
{
    (void)state;
    forget_calls();
    return 0;
}

static const char *in_folder(const char *name)
{
    static char path[300];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static struct vd_storage *must_open(const char *path, uint32_t flags)
{
    struct vd_storage_options options = {.flags = flags};
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_open(path, &options, &storage, &vt_err));
    return storage;
}

static void fails_to_open(const char *path, uint32_t flags, int code, const char *text)
{
    struct vd_storage_options options = {.flags = flags};
    struct vd_storage *storage = NULL;
    struct vdisk_error err = {0};
    assert_int_equal(vd_storage_open(path, &options, &storage, &err), -code);
    if (!strstr(err.message, text) || strncmp(err.message, path, strlen(path)) != 0)
        fail_msg("\"%s\" does not name \"%s\" and tell \"%s\"", err.message, path, text);
}

#define NEW (VD_STORAGE_WRITE | VD_STORAGE_CREATE)

static void test_other_kinds(void **state)
{
    (void)state;
    const char *pipe_path = in_folder("pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    fails_to_open(pipe_path, 0, EINVAL, "pipe");
    fails_to_open(pipe_path, VD_STORAGE_WRITE, EINVAL, "pipe");
    fails_to_open(pipe_path, NEW, EINVAL, "pipe");
    unlink(pipe_path);

    fails_to_open(folder, 0, EISDIR, "directory");
    fails_to_open(folder, VD_STORAGE_WRITE, EISDIR, "directory");
    fails_to_open(folder, NEW, EISDIR, "directory");
    fails_to_open("/dev/null", 0, EINVAL, "character device");
    fails_to_open("/dev/null", NEW, EINVAL, "character device");
    fails_to_open(in_folder("nothing"), 0, ENOENT, "No such file");
    fails_to_open(in_folder("nothing/here"), NEW, ENOENT, "No such file");

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/sock", folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    fails_to_open(address.sun_path, 0, EINVAL, "socket");
    fails_to_open(address.sun_path, VD_STORAGE_WRITE, EINVAL, "socket");
    close(fd);
    unlink(address.sun_path);
}

static void test_create(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof(path), "%s", in_folder("new"));
    struct vd_storage *storage = must_open(path, NEW | VD_STORAGE_EXCLUSIVE);
    VT_OK(vd_storage_pwrite(storage, "precious", 8, 0, &vt_err));
    fails_to_open(path, NEW | VD_STORAGE_EXCLUSIVE, EEXIST, "File exists");

    /* In use: refused, and not emptied. */
    fails_to_open(path, NEW, EAGAIN, "is another process using the image?");
    char content[8];
    VT_OK(vd_storage_pread(storage, content, 8, 0, &vt_err));
    assert_memory_equal(content, "precious", 8);
    vd_storage_close(storage);

    uint64_t size;
    storage = must_open(path, NEW);
    VT_OK(vd_storage_size(storage, &size, &vt_err));
    assert_int_equal(size, 0);
    vd_storage_close(storage);
    unlink(path);
}

/* A link whose target is not there yet makes the target. */
static void test_create_by_link(void **state)
{
    (void)state;
    char link_path[300];
    snprintf(link_path, sizeof(link_path), "%s", in_folder("link"));
    assert_int_equal(symlink("target", link_path), 0);
    struct vd_storage *storage = must_open(link_path, NEW);
    VT_OK(vd_storage_flush(storage, &vt_err));
    vd_storage_close(storage);
    assert_int_equal(access(in_folder("target"), F_OK), 0);
    unlink(in_folder("target"));
    unlink(link_path);
}

static void test_new_name_is_synced_once(void **state)
{
    (void)state;
    const char *path = in_folder("synced");
    struct vd_storage *storage = must_open(path, NEW);
    assert_int_equal(calls.name_syncs, 0);
    VT_OK(vd_storage_flush(storage, &vt_err));
    assert_int_equal(calls.name_syncs, 1);
    VT_OK(vd_storage_flush(storage, &vt_err));
    assert_int_equal(calls.name_syncs, 1);
    assert_int_equal(calls.data_syncs, 2);
    vd_storage_close(storage);

    storage = must_open(path, NEW); /* it is there: its name is, too */
    VT_OK(vd_storage_flush(storage, &vt_err));
    assert_int_equal(calls.name_syncs, 1);
    vd_storage_close(storage);

    storage = must_open(path, VD_STORAGE_WRITE | VD_STORAGE_UNSAFE);
    VT_OK(vd_storage_flush(storage, &vt_err));
    assert_int_equal(calls.data_syncs, 3);
    vd_storage_close(storage);
    unlink(path);
}

/* The system would say yes the second time, without the data. */
static void test_failed_flush_stays(void **state)
{
    (void)state;
    const char *path = in_folder("lost");
    struct vd_storage *storage = must_open(path, NEW);
    VT_OK(vd_storage_pwrite(storage, "x", 1, 0, &vt_err));
    calls.data_sync_error = EIO;
    VT_FAILS(EIO, vd_storage_flush(storage, &vt_err));
    unsigned before = calls.data_syncs;
    for (int i = 0; i < 3; i++)
        VT_FAILS(EIO, vd_storage_flush(storage, &vt_err));
    assert_int_equal(calls.data_syncs, before);
    vd_storage_close(storage);
    unlink(path);
}

/* Who waits for write-back takes the only report of an error: it must reach the flush. */
static void test_write_behind_tells(void **state)
{
    (void)state;
    const char *path = in_folder("behind");
    struct vd_storage *storage = must_open(path, NEW);
    VT_OK(vd_storage_resize(storage, 1u << 30, &vt_err));
    calls.range_sync_error = ENOSPC;
    vd_storage_write_behind(storage, vd_range(0, 4096));
    VT_OK(vd_storage_flush(storage, &vt_err)); /* nothing was waited for yet */
    vd_storage_write_behind(storage, vd_range(512u << 20, 4096));
    VT_FAILS(ENOSPC, vd_storage_flush(storage, &vt_err));
    vd_storage_close(storage);
    unlink(path);
}

/* A synchronous write may take the report of another thread's; a full disk is no lost write. */
static void test_failed_synchronous_write(void **state)
{
    (void)state;
    const char *path = in_folder("dsync");
    struct vd_storage *storage = must_open(path, NEW | VD_STORAGE_SYNC);
    calls.write_error = ENOSPC;
    VT_FAILS(ENOSPC, vd_storage_pwrite(storage, "x", 1, 0, &vt_err));
    VT_OK(vd_storage_flush(storage, &vt_err));
    calls.write_error = EIO;
    VT_FAILS(EIO, vd_storage_pwrite(storage, "x", 1, 0, &vt_err));
    VT_FAILS(EIO, vd_storage_flush(storage, &vt_err));
    vd_storage_close(storage);

    /* Where writes do not wait, their errors are their own. */
    storage = must_open(path, VD_STORAGE_WRITE);
    calls.write_error = EIO;
    VT_FAILS(EIO, vd_storage_pwrite(storage, "x", 1, 0, &vt_err));
    VT_OK(vd_storage_flush(storage, &vt_err));
    vd_storage_close(storage);
    unlink(path);
}

/* Transfers that end anywhere, and signals: everything arrives all the same. */
static void test_short_transfers(void **state)
{
    (void)state;
    enum {
        ENTRIES = 3000,
        STEP = 7,
        BYTES = ENTRIES * STEP
    };
    static const size_t limits[] = {1, 6, 7, 8, 4096};
    static uint8_t out[BYTES], in[BYTES];
    static struct iovec out_iov[ENTRIES], in_iov[ENTRIES];
    const char *path = in_folder("short");
    struct vd_storage *storage = must_open(path, NEW);
    for (int i = 0; i < ENTRIES; i++) {
        out_iov[i] = (struct iovec){out + i * STEP, STEP};
        in_iov[i] = (struct iovec){in + i * STEP, STEP};
    }
    for (size_t l = 0; l < sizeof(limits) / sizeof(limits[0]); l++) {
        calls.transfer_max = limits[l];
        calls.interrupt = 3;
        for (size_t i = 0; i < BYTES; i++)
            out[i] = (uint8_t)(i * 31 + l);
        memset(in, 0, sizeof(in));
        VT_OK(vd_storage_pwritev(storage, out_iov, ENTRIES, 5, &vt_err));
        VT_OK(vd_storage_preadv(storage, in_iov, ENTRIES, 5, &vt_err));
        assert_memory_equal(in, out, BYTES);
    }
    vd_storage_close(storage);
    unlink(path);
}

/* One request, one system call, as long as the system takes all of it. */
static void test_one_call_a_request(void **state)
{
    (void)state;
    uint8_t buffer[8192] = {0};
    struct iovec iov[2] = {{buffer, 4096}, {buffer + 4096, 4096}};
    const char *path = in_folder("calls");
    struct vd_storage *storage = must_open(path, NEW);
    VT_OK(vd_storage_pwrite(storage, buffer, sizeof(buffer), 0, &vt_err));
    assert_int_equal(calls.transfers, 1);
    unsigned sizes = calls.sizes;
    VT_OK(vd_storage_pwritev(storage, iov, 2, 100, &vt_err));
    assert_int_equal(calls.transfers, 2);
    VT_OK(vd_storage_pread(storage, buffer, sizeof(buffer), 0, &vt_err));
    assert_int_equal(calls.transfers, 3);
    VT_OK(vd_storage_preadv(storage, iov, 2, 1, &vt_err));
    assert_int_equal(calls.transfers, 4);
    assert_int_equal(calls.sizes, sizes);
    vd_storage_close(storage);
    unlink(path);
}

static void check_zeroes(const char *path, int refused, unsigned flags)
{
    uint8_t buffer[20000];
    struct vd_storage *storage = must_open(path, NEW);
    calls.fallocate_refused = refused;
    memset(buffer, 0x77, sizeof(buffer));
    VT_OK(vd_storage_pwrite(storage, buffer, sizeof(buffer), 0, &vt_err));
    VT_OK(vd_storage_write_zeroes(storage, vd_range(100, 9000), flags, &vt_err));
    VT_OK(vd_storage_write_zeroes(storage, vd_range(19000, 30000), flags, &vt_err));
    VT_OK(vd_storage_preallocate(storage, vd_range(0, 60000), &vt_err));
    VT_OK(vd_storage_discard(storage, vd_range(10000, 1000), &vt_err));

    uint64_t size;
    VT_OK(vd_storage_size(storage, &size, &vt_err));
    assert_int_equal(size, 60000);
    VT_OK(vd_storage_pread(storage, buffer, sizeof(buffer), 0, &vt_err));
    for (size_t i = 0; i < sizeof(buffer); i++) {
        bool zero = (i >= 100 && i < 9100) || (i >= 10000 && i < 11000) || i >= 19000;
        assert_int_equal(buffer[i], zero ? 0 : 0x77);
    }
    VT_OK(vd_storage_pread(storage, buffer, sizeof(buffer), 40000, &vt_err));
    assert_true(vd_buffer_is_zero(buffer, sizeof(buffer)));

    /* What is not there is not asked for again and again. */
    unsigned before = calls.fallocates;
    if (refused == -1)
        for (int i = 0; i < 5; i++)
            VT_OK(vd_storage_write_zeroes(storage, vd_range(0, 10), flags, &vt_err));
    assert_true(refused != -1 || calls.fallocates == before);
    vd_storage_close(storage);
    unlink(path);
}

/* On file systems that lack this or that. */
static void test_zeroes_without_help(void **state)
{
    (void)state;
    static const int refused[] = {0, FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE,
                                  FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE, -1};
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        check_zeroes(in_folder("zeroes"), refused[i], 0);
        check_zeroes(in_folder("zeroes"), refused[i], VD_STORAGE_ZERO_MAY_PUNCH);
        if (refused[i] > 0) {
            calls.fallocate_error = EINVAL;
            check_zeroes(in_folder("zeroes"), refused[i], VD_STORAGE_ZERO_MAY_PUNCH);
        }
        forget_calls();
    }
}

/* Zeros that keep their space have it, the others have given it back. */
static void test_space(void **state)
{
    (void)state;
    uint64_t full, kept, punched;
    uint8_t *buffer = malloc(1u << 20);
    assert_non_null(buffer);
    memset(buffer, 1, 1u << 20);
    const char *path = in_folder("space");
    struct vd_storage *storage = must_open(path, NEW);
    struct vd_range whole = vd_range(0, 1u << 20);
    VT_OK(vd_storage_pwrite(storage, buffer, 1u << 20, 0, &vt_err));
    VT_OK(vd_storage_flush(storage, &vt_err));
    VT_OK(vd_storage_allocated(storage, &full, &vt_err));
    VT_OK(vd_storage_write_zeroes(storage, whole, 0, &vt_err));
    VT_OK(vd_storage_flush(storage, &vt_err));
    VT_OK(vd_storage_allocated(storage, &kept, &vt_err));
    assert_in_range(full, 1u << 20, 2u << 20);
    assert_in_range(kept, 1u << 20, 2u << 20);
    if (vd_storage_caps(storage) & VD_STORAGE_CAN_DISCARD) {
        VT_OK(vd_storage_write_zeroes(storage, whole, VD_STORAGE_ZERO_MAY_PUNCH, &vt_err));
        VT_OK(vd_storage_allocated(storage, &punched, &vt_err));
        assert_in_range(punched, 0, 65536);
    }
    free(buffer);
    vd_storage_close(storage);
    unlink(path);
}

/* The target of a copy that stops half way is known: done, failed for good, or to be redone. */
static void test_copies(void **state)
{
    (void)state;
    enum {
        BYTES = 100000
    };
    static const struct {
        size_t piece;
        int error; /* after the first piece */
        int result;
    } cases[] = {
        {0, 0, 0},
        {1000, 0, 0},
        {1000, EXDEV, EOPNOTSUPP},
        {1000, EINVAL, EOPNOTSUPP},
        {1000, ENOSYS, EOPNOTSUPP},
        {1000, EPERM, EOPNOTSUPP},
        {1000, EIO, EIO},
        {1000, ENOSPC, ENOSPC},
    };
    static uint8_t content[BYTES], back[BYTES];
    char from_path[300];
    snprintf(from_path, sizeof(from_path), "%s", in_folder("from"));
    struct vd_storage *from = must_open(from_path, NEW);
    struct vd_storage *to = must_open(in_folder("to"), NEW);
    for (size_t i = 0; i < BYTES; i++)
        content[i] = (uint8_t)(i * 7);
    VT_OK(vd_storage_pwrite(from, content, BYTES, 0, &vt_err));

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vdisk_error err = {0};
        forget_calls();
        calls.copy_max = cases[i].piece;
        calls.copy_error = cases[i].error;
        VT_OK(vd_storage_resize(to, 0, &vt_err));
        /* Odd offsets, which can not be shared blocks. */
        int ret = vd_storage_copy(from, 1, to, 3, BYTES - 1, 0, &err);
        assert_int_equal(ret, -cases[i].result);
        assert_int_equal(err.code, ret == -EOPNOTSUPP ? 0 : cases[i].result);
        if (ret == 0) {
            VT_OK(vd_storage_pread(to, back, BYTES - 1, 3, &vt_err));
            assert_memory_equal(back, content + 1, BYTES - 1);
        }
    }
    /* Past the end of the source: not a success that copied less. */
    forget_calls();
    struct vdisk_error err = {0};
    assert_int_equal(vd_storage_copy(from, BYTES - 100, to, 0, 200, 0, &err), -EOPNOTSUPP);
    /* Whether blocks can be shared depends on the file system; what is said of it beforehand fits.
     */
    assert_true(vd_storage_can_copy(from, to, 0));
    bool can_share = vd_storage_can_copy(from, to, VD_STORAGE_COPY_REFLINK_ONLY);
    int shared = vd_storage_copy(from, 0, to, 0, 4096, VD_STORAGE_COPY_REFLINK_ONLY, &err);
    assert_int_equal(shared, can_share ? 0 : -EOPNOTSUPP);
    assert_int_equal(err.code, 0);
    vd_storage_close(from);
    vd_storage_close(to);
    unlink(from_path);
    unlink(in_folder("to"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_other_kinds, setup),
        cmocka_unit_test_setup(test_create, setup),
        cmocka_unit_test_setup(test_create_by_link, setup),
        cmocka_unit_test_setup(test_new_name_is_synced_once, setup),
        cmocka_unit_test_setup(test_failed_flush_stays, setup),
        cmocka_unit_test_setup(test_write_behind_tells, setup),
        cmocka_unit_test_setup(test_failed_synchronous_write, setup),
        cmocka_unit_test_setup(test_short_transfers, setup),
        cmocka_unit_test_setup(test_one_call_a_request, setup),
        cmocka_unit_test_setup(test_zeroes_without_help, setup),
        cmocka_unit_test_setup(test_space, setup),
        cmocka_unit_test_setup(test_copies, setup),
    };
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/vdisk-file-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests_name("file", tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
