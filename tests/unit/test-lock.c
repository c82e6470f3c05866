/* SPDX-License-Identifier: MIT */
/* storage/file_lock: who may open a file beside whom, and what the refused are told. */
#include "drivers/check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage/file_lock.h"

#define READ  0u
#define WRITE ((uint32_t)VD_STORAGE_WRITE)
#define SHARE ((uint32_t)VD_STORAGE_SHARE)

static char path[256];

/* What F_OFD_SETLK fails with; 0: as the system does. */
static int setlk_error;

int fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    void *argument = va_arg(args, void *); /* all that this program uses have one */
    va_end(args);
    if (setlk_error && command == F_OFD_SETLK) {
        errno = setlk_error;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

static int open_file(void)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void set_lock(int fd, short type, off_t start, off_t length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

/* Every pair, in either order: only readers and sharers get along, and sharers with writers. */
static void test_pairs(void **state)
{
    (void)state;
    static const struct {
        uint32_t first, second;
        bool fine;
    } pairs[] = {
        {READ, READ, true},   {READ, SHARE, true},  {SHARE, READ, true},
        {SHARE, SHARE, true}, {SHARE, WRITE, true}, {WRITE, SHARE, true},
        {READ, WRITE, false}, {WRITE, READ, false}, {WRITE, WRITE, false},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        int first = open_file();
        int second = open_file();
        VT_OK(vd_file_lock(first, pairs[i].first, &vt_err));
        if (pairs[i].fine)
            VT_OK(vd_file_lock(second, pairs[i].second, &vt_err));
        else
            VT_FAILS(EAGAIN, vd_file_lock(second, pairs[i].second, &vt_err));
        close(first);
        /* The refused one leaves nothing behind. */
        close(second);
        int third = open_file();
        VT_OK(vd_file_lock(third, WRITE, &vt_err));
        close(third);
    }
}

/* The bytes that QEMU takes, and no others. */
static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        uint32_t flags;
        off_t bytes[6]; /* then 0 */
    } holders[] = {
        {WRITE, {100, 101, 103, 201, 203}},
        {READ, {100, 201, 203}},
        {SHARE, {100}},
    };
    for (size_t i = 0; i < sizeof(holders) / sizeof(holders[0]); i++) {
        int holder = open_file();
        int other = open_file();
        VT_OK(vd_file_lock(holder, holders[i].flags, &vt_err));
        size_t next = 0;
        for (off_t byte = 0; byte < 400; byte++) {
            struct flock lock = {.l_type = F_WRLCK, .l_start = byte, .l_len = 1};
            assert_int_equal(fcntl(other, F_OFD_GETLK, &lock), 0);
            bool wanted = holders[i].bytes[next] == byte && byte != 0;
            if ((lock.l_type != F_UNLCK) != wanted)
                fail_msg("flags %u, byte %jd", holders[i].flags, (intmax_t)byte);
            next += wanted;
        }
        close(other);
        close(holder);
    }
}

static void test_message(void **state)
{
    (void)state;
    char who[64];
    struct vdisk_error err = {0};
    int first = open_file();
    int second = open_file();
    VT_OK(vd_file_lock(first, WRITE, &vt_err));
    assert_int_equal(vd_file_lock(second, WRITE, &err), -EAGAIN);
    snprintf(who, sizeof(who), "(process %d \"test-lock\" has it open)", (int)getpid());
    assert_non_null(strstr(err.message, "Failed to get \"write\" lock: is another process"));
    assert_non_null(strstr(err.message, who));

    vdisk_error_clear(&err);
    assert_int_equal(vd_file_lock(second, READ, &err), -EAGAIN);
    assert_non_null(strstr(err.message, "Failed to get shared \"write\" lock"));
    close(first);
    close(second);
}

/* It is the other process that is named, not one that only has the file open. */
static void test_other_process(void **state)
{
    (void)state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    int bystander = open_file();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        char answer = vd_file_lock(fd, WRITE, NULL) == 0 ? 'y' : 'n';
        if (write(ready[1], &answer, 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    char answer = 0;
    assert_int_equal(read(ready[0], &answer, 1), 1);
    assert_int_equal(answer, 'y');

    char who[32];
    struct vdisk_error err = {0};
    int fd = open_file();
    int ret = vd_file_lock(fd, READ, &err);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(ret, -EAGAIN);
    snprintf(who, sizeof(who), "(process %d ", (int)child);
    assert_non_null(strstr(err.message, who));

    VT_OK(vd_file_lock(fd, WRITE, &vt_err)); /* it died, and its locks with it */
    close(fd);
    close(bystander);
    close(ready[0]);
    close(ready[1]);
}

/* cloud-hypervisor: the whole file, exclusive to write, shared to read. */
static void test_whole_file(void **state)
{
    (void)state;
    static const struct {
        short type;
        uint32_t flags;
        bool fine;
    } cases[] = {
        {F_WRLCK, WRITE, false}, {F_WRLCK, READ, false}, {F_WRLCK, SHARE, false},
        {F_RDLCK, WRITE, false}, {F_RDLCK, READ, true},  {F_RDLCK, SHARE, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (off_t length = 0; length <= 65536; length += 65536) { /* 0: to the end, wherever */
            int first = open_file();
            int second = open_file();
            set_lock(first, cases[i].type, 0, length);
            if (cases[i].fine)
                VT_OK(vd_file_lock(second, cases[i].flags, &vt_err));
            else
                VT_FAILS(EAGAIN, vd_file_lock(second, cases[i].flags, &vt_err));
            close(first);
            close(second);
        }
}

/* Where there are no locks the open goes on; an error that is none of these is one. */
static void test_no_locks(void **state)
{
    (void)state;
    static const int without[] = {ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS};
    int fd = open_file();
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        setlk_error = without[i];
        VT_OK(vd_file_lock(fd, WRITE, &vt_err));
        VT_OK(vd_file_lock(fd, READ, &vt_err));
    }
    setlk_error = EIO;
    VT_FAILS(EIO, vd_file_lock(fd, WRITE, &vt_err));
    setlk_error = EACCES;
    VT_FAILS(EAGAIN, vd_file_lock(fd, WRITE, &vt_err));
    setlk_error = 0;
    close(fd);
}

/* Locks that mean nothing to us: of other bytes, of other permissions. */
static void test_strangers(void **state)
{
    (void)state;
    int first = open_file();
    int second = open_file();
    set_lock(first, F_WRLCK, 0, 1);
    set_lock(first, F_RDLCK, 102, 1);
    set_lock(first, F_RDLCK, 202, 1);
    set_lock(first, F_WRLCK, 1 << 20, 0);
    VT_OK(vd_file_lock(second, WRITE, &vt_err));
    close(first);
    close(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),      cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_message),    cmocka_unit_test(test_other_process),
        cmocka_unit_test(test_whole_file), cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_no_locks),
    };
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/vdisk-lock-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, 65536) < 0)
        return 1;
    close(fd);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests_name("lock", tests, NULL, NULL);
    unlink(path);
    return failed;
}
