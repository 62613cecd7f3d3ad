// A program's way into a running container. It is run from a sealed copy in memory, so
// that nothing in the container can write to what the host runs.
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The descriptors that pkg/lxc/enter.go passes on, after the program's input and output.
// Behind the groups' may come one of a program of the host's.
enum { ORDERS = 3, REPORT, INIT, GROUPS };

// What was done or went wrong, as pkg/lxc/enter.go knows it: MADE comes with the number
// of the program's process and RUNS right before it is executed; all others with errno.
enum { MADE, RUNS, CGROUP, LABEL, NAMESPACES, CAPABILITIES, FORK, TERMINAL, USER, DIRECTORY, PROGRAM, FILTER };

#define LIMITS 16 // as many as the kernel has

struct entry {
	int namespaces, n_groups, sealed, no_new_privs, filtered, terminal, home;
	char *label_file, *label, *dir, **limits, **gids, **paths, **argv, **env;
	uint64_t capabilities;
	uid_t uid;
	gid_t gid;
};

static void report(int step, int value)
{
	int32_t r[2] = { step, value };
	while (write(REPORT, r, sizeof r) < 0 && errno == EINTR)
		;
}

static _Noreturn void fail(int step)
{
	report(step, errno);
	_exit(127);
}

// keep_capabilities takes away for good what the container's init may not have.
static int keep_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	for (int i = 0; i < 64; i++) {
		int held = prctl(PR_CAPBSET_READ, i, 0, 0, 0);
		if (held < 0)
			break; // past the last one the kernel knows
		if (held && !(keep >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
			return -1;
	}
	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		data[i].effective &= (uint32_t)(keep >> 32 * i);
		data[i].permitted &= (uint32_t)(keep >> 32 * i);
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, data);
}

// enter_directory changes to a directory of the container's. The name may lead to one
// of the host's after all; then the kernel calls it unreachable from the root.
static int enter_directory(const char *dir)
{
	char where[PATH_MAX];

	if (chdir(dir) < 0)
		return -1;
	if (syscall(SYS_getcwd, where, sizeof where) > 0 && where[0] == '/')
		return 0;
	errno = EXDEV;
	return -1;
}

static void take_user(const struct entry *e)
{
	static gid_t groups[NGROUPS_MAX];
	int n = 0;

	for (char **g = e->gids; *g && n < NGROUPS_MAX; g++)
		groups[n++] = strtoul(*g, NULL, 10);
	if (syscall(SYS_setgroups, n, groups) < 0 || syscall(SYS_setresgid, e->gid, e->gid, e->gid) < 0)
		fail(USER);
	if (keep_capabilities(e->capabilities) < 0)
		fail(CAPABILITIES);
	if (syscall(SYS_setresuid, e->uid, e->uid, e->uid) < 0)
		fail(USER);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); // the change of user may have set it
}

// run is the program's process, already in the container's pid namespace.
static _Noreturn void run(const struct entry *e)
{
	int refused = 0;

	if (setsid() < 0 || (e->terminal && ioctl(0, TIOCSCTTY, 0) < 0))
		fail(TERMINAL);
	for (int i = 0; i < LIMITS && e->limits[2 * i]; i++) {
		struct rlimit l = { strtoull(e->limits[2 * i], NULL, 10), strtoull(e->limits[2 * i + 1], NULL, 10) };
		setrlimit(i, &l); // what we may not raise stays as it is
	}
	umask(022);
	if (e->filtered && load_filter() < 0)
		fail(FILTER);
	take_user(e);
	if (enter_directory(e->dir) < 0 && (!e->home || enter_directory("/") < 0))
		fail(DIRECTORY);
	if (e->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail(CAPABILITIES);
	reset_signals();
	report(RUNS, 0);
	if (e->sealed) {
		syscall(SYS_execveat, GROUPS + e->n_groups, "", e->argv, e->env, AT_EMPTY_PATH);
		fail(PROGRAM);
	}
	// As a shell does it: the first that can be run; else the telling error.
	errno = ENOENT;
	for (char **p = e->paths; *p; p++) {
		execve(*p, e->argv, e->env);
		if (errno != ENOENT && errno != ENOTDIR)
			refused = errno;
	}
	errno = refused ? refused : ENOENT;
	fail(PROGRAM);
}

void run_enter(void)
{
	struct orders o;
	struct entry e;

	// First of all, as the container may have names that lead to what is open here.
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	fcntl(REPORT, F_SETFD, FD_CLOEXEC);
	if (read_orders(&o, ORDERS) < 0)
		fail(NAMESPACES);
	close(ORDERS);
	e.n_groups = number(&o);
	e.sealed = number(&o);
	if (syscall(SYS_close_range, GROUPS + e.n_groups + e.sealed, ~0U, 0) < 0)
		fail(NAMESPACES);
	if (e.sealed && fcntl(GROUPS + e.n_groups, F_SETFD, FD_CLOEXEC) < 0)
		fail(PROGRAM);
	e.namespaces = number(&o);
	e.label_file = text(&o);
	e.label = text(&o);
	e.capabilities = number(&o);
	e.no_new_privs = number(&o);
	e.filtered = number(&o);
	e.limits = list(&o);
	e.uid = number(&o);
	e.gid = number(&o);
	e.gids = list(&o);
	e.terminal = number(&o);
	e.home = number(&o);
	e.dir = text(&o);
	e.paths = list(&o);
	e.argv = list(&o);
	e.env = list(&o);

	for (int i = 0; i < e.n_groups; i++)
		if (write(GROUPS + i, "0", 1) < 0 || close(GROUPS + i) < 0)
			fail(CGROUP);
	if (*e.label_file && write_file(e.label_file, e.label) < 0)
		fail(LABEL);
	// All at once, and of the one process that the descriptor stands for.
	if (setns(INIT, e.namespaces) < 0)
		fail(NAMESPACES);
	close(INIT);
	if (e.namespaces & CLONE_NEWUSER)
		if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
			fail(USER);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);

	// A pid namespace is for the children; the child's parent is lxcboot.
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		run(&e);
	if (pid < 0)
		fail(FORK);
	report(MADE, pid);
	_exit(0);
}
