/* SPDX-License-Identifier: MIT */
/*
 * The whole command, with one allocation or call of the system made to fail in each run.
 *
 *   vdisk-fault [COMMAND]
 *
 * For every command below and N = 1, 2, ...: fresh fixtures, a child in which the Nth call fails,
 * and then: no signal, no hang, no leak (sanitizer builds), exit status 0 with the right result, or
 * another with a message; sources untouched; the target absent or sound; nothing left behind.
 *
 * VD_FAULT_FULL=1: every N.  Else VD_FAULT_CASES, default 6, of each command and kind of fault.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "drivers/random.h"
#include "inject.h"

#define HANG_SECONDS 20
#define ARGS_MAX     14
#define FILES_MAX    3
#define DISK_BYTES   (768u * 1024)

struct command {
    const char *name;
    const char *argv[ARGS_MAX];
    const char *restored[FILES_MAX]; /* put back from pristine/ before each run */
    const char *removed[FILES_MAX];  /* absent before each run */
    const char *target;              /* absent, or sound, after a failure; NULL: none */
    bool same_output;                /* with status 0 it prints what it prints without faults */
    const char *proof[ARGS_MAX];     /* after status 0 this has to end with 0 as well */
    bool resumes;                    /* after a failure the same again has to work */
};

#define PROOF(...) .proof = {"compare", "-q", __VA_ARGS__}

static const struct command commands[] = {
    {.name = "create",
     .argv = {"create", "-q", "-f", "gow1", "new.gow1", "1M"},
     .removed = {"new.gow1"},
     .target = "new.gow1",
     .proof = {"check", "-q", "new.gow1"},
     .resumes = true},
    {.name = "info", .argv = {"info", "--output=json", "disk.gow1"}, .same_output = true},
    {.name = "check", .argv = {"check", "--output=json", "disk.gow1"}, .same_output = true},
    {.name = "map", .argv = {"map", "--output=json", "disk.gow1"}, .same_output = true},
    {.name = "measure",
     .argv = {"measure", "--output=json", "-O", "gow3", "disk.gow1"},
     .same_output = true},
    {.name = "compare",
     .argv = {"compare", "-f", "raw", "-F", "gow1", "disk.raw", "disk.gow1"},
     .same_output = true},
    {.name = "convert to gow1",
     .argv = {"convert", "-f", "raw", "-O", "gow1", "disk.raw", "out.gow1"},
     .removed = {"out.gow1"},
     .target = "out.gow1",
     PROOF("-f", "raw", "-F", "gow1", "disk.raw", "out.gow1"),
     .resumes = true},
    {.name = "convert to raw",
     .argv = {"convert", "-f", "gow1", "-O", "raw", "disk.gow1", "out.raw"},
     .removed = {"out.raw"},
     PROOF("-f", "raw", "-F", "gow1", "out.raw", "disk.gow1"),
     .resumes = true},
    {.name = "dd",
     .argv = {"dd", "-q", "-f", "gow1", "-O", "gow1", "bs=64k", "if=disk.gow1", "of=out.gow1"},
     .removed = {"out.gow1"},
     .target = "out.gow1",
     PROOF("-f", "gow1", "-F", "gow1", "disk.gow1", "out.gow1"),
     .resumes = true},
    {.name = "resize",
     .argv = {"resize", "-q", "-f", "gow1", "work.gow1", "+64k"},
     .restored = {"work.gow1"},
     .target = "work.gow1",
     PROOF("-f", "gow1", "-F", "gow1", "disk.gow1", "work.gow1")},
    {.name = "io",
     .argv = {"io", "-f", "gow1", "-c", "write -P 7 0 100k", "-c", "flush", "-c", "discard 64k 64k",
              "-c", "read 0 64k", "work.gow1"},
     .restored = {"work.gow1"},
     .target = "work.gow1",
     .proof = {"io", "-f", "gow1", "-r", "-c", "read -P 7 0 64k", "-c", "read -P 0 64k 64k",
               "work.gow1"}},
    {.name = "sync",
     .argv = {"sync", "-q", "master.gow3", "replica.gow3"},
     .restored = {"replica.gow3"},
     .target = "replica.gow3",
     PROOF("master.gow3", "replica.gow3"),
     .resumes = true},
    {.name = "sync anew",
     .argv = {"sync", "-q", "master.gow3", "fresh.gow3"},
     .removed = {"fresh.gow3"},
     .target = "fresh.gow3",
     PROOF("master.gow3", "fresh.gow3"),
     .resumes = true},
    {.name = "delta",
     .argv = {"delta", "--output=json", "master.gow3", "replica.gow3"},
     .restored = {"replica.gow3"},
     .same_output = true},
    {.name = "sums",
     .argv = {"sums", "-q", "-o", "out.sums", "master.gow3"},
     .removed = {"out.sums"},
     .resumes = true},
    {.name = "create an overlay",
     .argv = {"create", "-q", "-f", "qed", "-b", "base.qed", "-F", "qed", "new.qed"},
     .removed = {"new.qed"},
     .target = "new.qed",
     PROOF("base.qed", "new.qed"),
     .resumes = true},
    {.name = "create add-cow",
     .argv = {"create", "-q", "-f", "add-cow", "-o", "image_file=new.data", "-b", "base.qed", "-F",
              "qed", "new.add"},
     .removed = {"new.add", "new.data"},
     .target = "new.add",
     PROOF("base.qed", "new.add"),
     .resumes = true},
    {.name = "info of a chain",
     .argv = {"info", "--backing-chain", "--output=json", "over.qed"},
     .same_output = true},
    /* A file that does not tell its holes has data all over, and that is an answer too. */
    {.name = "map of a chain", .argv = {"map", "--output=json", "over.qed"}},
    {.name = "check qed", .argv = {"check", "--output=json", "over.qed"}, .same_output = true},
    {.name = "check add-cow", .argv = {"check", "--output=json", "over.add"}, .same_output = true},
    {.name = "compare chains", .argv = {"compare", "over.qed", "over.add"}, .same_output = true},
    {.name = "convert a chain",
     .argv = {"convert", "-O", "qed", "over.qed", "out.qed"},
     .removed = {"out.qed"},
     .target = "out.qed",
     PROOF("out.qed", "over.qed"),
     .resumes = true},
    {.name = "io to qed",
     .argv = {"io", "-c", "write -P 7 1000 100k", "-c", "flush", "-c", "write -z 256k 100k", "-c",
              "discard 128k 64k", "over.qed"},
     .restored = {"over.qed"},
     .target = "over.qed",
     .proof = {"io", "-r", "-c", "read -P 7 1000 100k", "-c", "read -P 0 256k 100k", "over.qed"}},
    {.name = "io to add-cow",
     .argv = {"io", "-c", "write -P 7 1000 100k", "-c", "flush", "-c", "write -z 256k 100k",
              "over.add"},
     .restored = {"over.add", "over.data"},
     .target = "over.add",
     .proof = {"io", "-r", "-c", "read -P 7 1000 100k", "-c", "read -P 0 256k 100k", "over.add"}},
    {.name = "resize qed",
     .argv = {"resize", "-q", "over.qed", "+100k"},
     .restored = {"over.qed"},
     .target = "over.qed",
     PROOF("-f", "raw", "flat.raw", "over.qed")},
    {.name = "commit",
     .argv = {"commit", "-q", "over.qed"},
     .restored = {"over.qed", "base.qed"},
     .target = "base.qed",
     PROOF("-f", "raw", "flat.raw", "base.qed"),
     .resumes = true},
    {.name = "commit add-cow",
     .argv = {"commit", "-q", "over.add"},
     .restored = {"over.add", "over.data", "base.qed"},
     .target = "base.qed",
     PROOF("-f", "raw", "flat.raw", "base.qed"),
     .resumes = true},
    {.name = "rebase",
     .argv = {"rebase", "-b", "other.qed", "-F", "qed", "over.qed"},
     .restored = {"over.qed"},
     .target = "over.qed",
     PROOF("-f", "raw", "flat.raw", "over.qed"),
     .resumes = true},
    {.name = "flatten",
     .argv = {"flatten", "-q", "over.qed"},
     .restored = {"over.qed"},
     .target = "over.qed",
     PROOF("-f", "raw", "flat.raw", "over.qed")},
    {.name = "snapshot",
     .argv = {"snapshot", "-q", "--external", "kept.qed", "over.qed"},
     .restored = {"over.qed"},
     .removed = {"kept.qed"},
     .target = "over.qed",
     PROOF("-f", "raw", "flat.raw", "over.qed")},
};

static const char *const fixtures[] = {
    "disk.raw",  "disk.gow1", "work.gow1", "master.gow3", "replica.gow3", "base.qed",
    "other.qed", "over.qed",  "over.add",  "over.data",   "flat.raw",
};
#define FIXTURES (sizeof(fixtures) / sizeof(fixtures[0]))

/* What a child tells its parent. */
struct report {
    uint64_t seen;
    char where[64];
};

struct bench {
    char folder[256];
    struct stat pristine[FIXTURES];
    struct report *report; /* shared memory */
    uint64_t failures;
    uint64_t injected;
    uint64_t absorbed; /* with exit status 0 all the same */
};

static void die(const char *what)
{
    fprintf(stderr, "vdisk-fault: %s: %s\n", what, strerror(errno));
    exit(99);
}

static size_t count_args(const char *const *argv)
{
    size_t count = 0;
    while (count < ARGS_MAX && argv[count])
        count++;
    return count;
}

static void redirect(const char *path, int fd)
{
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    if (file < 0 || dup2(file, fd) < 0)
        die(path);
    close(file);
}

/* Runs the command in a child; returns its wait status. */
static int run(struct bench *bench, const char *const *args, enum vt_fault_class fault,
               uint64_t nth)
{
    size_t count = count_args(args);
    char *argv[ARGS_MAX + 2] = {strdup("vdisk")};
    for (size_t i = 0; i < count; i++)
        argv[i + 1] = strdup(args[i]);
    fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        redirect("../stdout", STDOUT_FILENO);
        redirect("../stderr", STDERR_FILENO);
        alarm(HANG_SECONDS);
        vt_inject_start(fault, nth);
        int status = vd_cli_main((int)count + 1, argv);
        bench->report->seen = vt_inject_stop();
        snprintf(bench->report->where, sizeof(bench->report->where), "%s", vt_inject_where());
        for (size_t i = 0; i <= count; i++)
            free(argv[i]);
        exit(status); /* where a sanitizer looks for leaks */
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid");
    for (size_t i = 0; i <= count; i++)
        free(argv[i]);
    return status;
}

static bool succeeds(struct bench *bench, const char *const *args)
{
    int status = run(bench, args, VT_FAULT_ALLOC, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void read_text(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, room - 1, file) : 0;
    text[length] = '\0';
    if (file)
        fclose(file);
}

/* ---- Fixtures ------------------------------------------------------------------------------ */

/* A copy in which zeros are holes. */
static void copy_file(const char *from, const char *to)
{
    static uint8_t buf[65536];
    static const uint8_t zeros[sizeof(buf)];
    int in = open(from, O_RDONLY);
    int out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    off_t offset = 0;
    ssize_t got;
    if (in < 0 || out < 0)
        die(from);
    while ((got = read(in, buf, sizeof(buf))) > 0) {
        if (memcmp(buf, zeros, (size_t)got) != 0 && pwrite(out, buf, (size_t)got, offset) != got)
            die(to);
        offset += got;
    }
    if (got < 0 || ftruncate(out, offset) < 0)
        die(to);
    close(in);
    close(out);
}

static void must(struct bench *bench, const char *const *args)
{
    if (succeeds(bench, args))
        return;
    char text[1024];
    read_text("../stderr", text, sizeof(text));
    fprintf(stderr, "vdisk-fault: making fixtures: vdisk %s: %s", args[0], text);
    exit(99);
}

#define MUST(bench, ...) must(bench, (const char *const[ARGS_MAX]){__VA_ARGS__})

static void make_raw(const char *path)
{
    struct vt_random random = {1};
    uint8_t *bytes = calloc(1, DISK_BYTES);
    int fd = open(path, O_CREAT | O_WRONLY, 0666);
    if (!bytes || fd < 0)
        die(path);
    vt_random_fill(&random, bytes, 150000);
    vt_random_fill(&random, bytes + 400000, 5000);
    if (pwrite(fd, bytes, 262144, 0) < 0 || pwrite(fd, bytes + 393216, 65536, 393216) < 0 ||
        ftruncate(fd, DISK_BYTES) < 0)
        die(path);
    close(fd);
    free(bytes);
}

/* Two overlays of one content on base.qed: flat.raw.  other.qed is another base. */
static void make_chains(struct bench *bench)
{
    MUST(bench, "convert", "-f", "raw", "-O", "qed", "disk.raw", "base.qed");
    MUST(bench, "convert", "-f", "raw", "-O", "qed", "disk.raw", "other.qed");
    MUST(bench, "io", "-c", "write -P 6 0 100k", "-c", "write -z 384k 64k", "other.qed");
    MUST(bench, "create", "-q", "-f", "qed", "-b", "base.qed", "-F", "qed", "over.qed");
    MUST(bench, "create", "-q", "-f", "add-cow", "-o", "image_file=over.data", "-b", "base.qed",
         "-F", "qed", "over.add");
    static const char *const overlays[] = {"over.qed", "over.add"};
    for (size_t i = 0; i < 2; i++)
        MUST(bench, "io", "-c", "write -P 3 70000 1000", "-c", "write -P 4 300k 200k", "-c",
             "write -z 64k 64k", overlays[i]);
    MUST(bench, "convert", "-O", "raw", "over.qed", "flat.raw");
}

static void make_fixtures(struct bench *bench)
{
    const char *base = getenv("TMPDIR");
    if (!base) /* memory is faster than a disk that flushes for real */
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(bench->folder, sizeof(bench->folder), "%s/vdisk-fault-XXXXXX", base);
    if (!mkdtemp(bench->folder) || chdir(bench->folder) < 0 || mkdir("work", 0777) < 0 ||
        mkdir("pristine", 0777) < 0 || chdir("work") < 0)
        die(bench->folder);
    make_raw("disk.raw");
    MUST(bench, "convert", "-f", "raw", "-O", "gow1", "disk.raw", "disk.gow1");
    MUST(bench, "convert", "-f", "raw", "-O", "gow3", "disk.raw", "master.gow3");
    MUST(bench, "sync", "-q", "master.gow3", "replica.gow3");
    MUST(bench, "io", "-f", "gow3", "-c", "write -P 5 100k 200k", "-c", "discard 0 64k",
         "master.gow3");
    copy_file("disk.gow1", "work.gow1");
    make_chains(bench);
    for (size_t i = 0; i < FIXTURES; i++) {
        char path[64];
        snprintf(path, sizeof(path), "../pristine/%s", fixtures[i]);
        copy_file(fixtures[i], path);
    }
}

static void prepare(struct bench *bench, const struct command *command)
{
    for (size_t i = 0; i < FILES_MAX && command->restored[i]; i++) {
        char path[64];
        snprintf(path, sizeof(path), "../pristine/%s", command->restored[i]);
        unlink(command->restored[i]);
        copy_file(path, command->restored[i]);
    }
    for (size_t i = 0; i < FILES_MAX && command->removed[i]; i++)
        unlink(command->removed[i]);
    for (size_t i = 0; i < FIXTURES; i++)
        if (stat(fixtures[i], &bench->pristine[i]) < 0)
            die(fixtures[i]);
}

/* ---- Verdicts ------------------------------------------------------------------------------ */

static bool is_in(const char *const *list, size_t entries, const char *name)
{
    for (size_t i = 0; i < entries && list[i]; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static bool sources_are_untouched(const struct bench *bench, const struct command *command)
{
    for (size_t i = 0; i < FIXTURES; i++) {
        struct stat now;
        const struct stat *then = &bench->pristine[i];
        if (is_in(command->restored, FILES_MAX, fixtures[i]))
            continue;
        if (stat(fixtures[i], &now) < 0 || now.st_ino != then->st_ino ||
            now.st_size != then->st_size || now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != then->st_mtim.tv_nsec)
            return false;
    }
    return true;
}

/* Every file here is a fixture or the target. */
static bool nothing_is_left_behind(const struct command *command, char *extra, size_t room)
{
    DIR *folder = opendir(".");
    const struct dirent *entry;
    bool ok = true;
    while (folder && (entry = readdir(folder)) != NULL)
        if (entry->d_name[0] != '.' && !is_in(fixtures, FIXTURES, entry->d_name) &&
            !is_in(command->removed, FILES_MAX, entry->d_name)) {
            snprintf(extra, room, "left behind: %s", entry->d_name);
            unlink(entry->d_name);
            ok = false;
        }
    if (folder)
        closedir(folder);
    return ok;
}

static bool target_is_sound(struct bench *bench, const struct command *command)
{
    if (!command->target || access(command->target, F_OK) < 0)
        return true;
    const char *args[ARGS_MAX] = {"check", "-q", command->target};
    int status = run(bench, args, VT_FAULT_ALLOC, 0);
    /* 3: leaked clusters, which a failure may leave. */
    return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3);
}

/* NULL, or what is wrong after a run that ended with @status. */
static const char *judge(struct bench *bench, const struct command *command, int status,
                         const char *expected_output)
{
    static char text[20000];
    static char message[300];
    bool is_unlink = strcmp(bench->report->where, "unlink") == 0;
    if (WIFSIGNALED(status)) {
        snprintf(message, sizeof(message), "killed by signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? ": it hung" : "");
        return message;
    }
    read_text("../stderr", text, sizeof(text));
    /* A check tells of places that it could not look at as it tells of other findings. */
    if (WEXITSTATUS(status) != 0 && strncmp(text, "vdisk: ", 7) != 0 &&
        !(strncmp(command->name, "check", 5) == 0 && text[0])) {
        snprintf(message, sizeof(message), "status %d, and standard error is: %.200s",
                 WEXITSTATUS(status), text);
        return message;
    }
    if (!sources_are_untouched(bench, command))
        return "a source was changed";
    if (!nothing_is_left_behind(command, message, sizeof(message)) && !is_unlink)
        return message;
    if (WEXITSTATUS(status) == 0) {
        read_text("../stdout", text, sizeof(text));
        if (command->same_output && strcmp(text, expected_output) != 0)
            return "status 0, but another output";
        if (command->proof[0] && !succeeds(bench, command->proof))
            return "status 0, but the result is wrong";
        return NULL;
    }
    if (!target_is_sound(bench, command))
        return "the target is not sound";
    /* Files that could not be removed are in the way of the next run, which may say so. */
    if (command->resumes && !is_unlink && !succeeds(bench, command->argv))
        return "the same again fails";
    if (command->resumes && !is_unlink && command->proof[0] && !succeeds(bench, command->proof))
        return "the same again gives a wrong result";
    return NULL;
}

static void one_case(struct bench *bench, const struct command *command, enum vt_fault_class fault,
                     uint64_t nth, const char *expected_output)
{
    prepare(bench, command);
    memset(bench->report, 0, sizeof(*bench->report));
    int status = run(bench, command->argv, fault, nth);
    const char *wrong = judge(bench, command, status, expected_output);
    bench->injected++;
    bench->absorbed += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!wrong)
        return;
    bench->failures++;
    printf("# %s, %s number %" PRIu64 " (%s): %s\n", command->name, vt_fault_class_name(fault), nth,
           bench->report->where, wrong);
}

static bool one_command(struct bench *bench, const struct command *command, uint64_t cases)
{
    static char expected[20000];
    uint64_t failures = bench->failures;
    uint64_t injected = bench->injected;
    uint64_t absorbed = bench->absorbed;
    for (enum vt_fault_class fault = 0; fault < VT_FAULT_CLASSES; fault++) {
        prepare(bench, command);
        int status = run(bench, command->argv, fault, 0);
        read_text("../stdout", expected, sizeof(expected));
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            char text[500];
            read_text("../stderr", text, sizeof(text));
            printf("# %s fails without any fault: %s\n", command->name, text);
            bench->failures++;
            return false;
        }
        uint64_t total = bench->report->seen;
        uint64_t wanted = cases && cases < total ? cases : total;
        for (uint64_t i = 0; i < wanted; i++) /* the first and the last are among them */
            one_case(bench, command, fault, wanted < 2 ? 1 : 1 + i * (total - 1) / (wanted - 1),
                     expected);
    }
    for (size_t i = 0; i < FILES_MAX && command->removed[i]; i++)
        unlink(command->removed[i]);
    printf("# %s: %" PRIu64 " faults, %" PRIu64 " absorbed, %" PRIu64 " wrong\n", command->name,
           bench->injected - injected, bench->absorbed - absorbed, bench->failures - failures);
    return bench->failures == failures;
}

static void remove_folder(const struct bench *bench)
{
    static const char *const folders[] = {"work", "pristine", "."};
    for (size_t i = 0; i < 3; i++) {
        if (chdir(bench->folder) < 0 || chdir(folders[i]) < 0)
            die(bench->folder);
        DIR *folder = opendir(".");
        const struct dirent *entry;
        while (folder && (entry = readdir(folder)) != NULL)
            if (entry->d_name[0] != '.' && unlink(entry->d_name) < 0 && rmdir(entry->d_name) < 0)
                die(entry->d_name);
        if (folder)
            closedir(folder);
    }
    if (chdir("/") < 0 || rmdir(bench->folder) < 0)
        die(bench->folder);
}

int main(int argc, char **argv)
{
    const size_t count = sizeof(commands) / sizeof(commands[0]);
    const char *cases = getenv("VD_FAULT_CASES");
    uint64_t wanted = getenv("VD_FAULT_FULL") ? 0 : cases ? strtoull(cases, NULL, 0) : 6;
    struct bench bench = {.folder = ""};
    bench.report = mmap(NULL, sizeof(*bench.report), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench.report == MAP_FAILED)
        die("mmap");
    make_fixtures(&bench);
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], commands[i].name) != 0) {
            printf("ok %zu - %s # SKIP\n", i + 1, commands[i].name);
            continue;
        }
        bool ok = one_command(&bench, &commands[i], wanted);
        printf("%s %zu - %s\n", ok ? "ok" : "not ok", i + 1, commands[i].name);
    }
    printf("# faults injected: %" PRIu64 ", absorbed: %" PRIu64 ", wrong: %" PRIu64 "\n",
           bench.injected, bench.absorbed, bench.failures);
    remove_folder(&bench);
    munmap(bench.report, sizeof(*bench.report));
    return bench.failures ? 1 : 0;
}
