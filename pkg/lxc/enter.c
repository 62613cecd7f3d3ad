// A process that enters a container must have one thread, which a Go process never
// has: so it is forked here, and makes system calls only, until it runs the program.
#define _GNU_SOURCE
#include "enter.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

static void report(const struct enter *e, int step, int value)
{
	struct enter_report r = { step, value };
	ssize_t n;
	do
		n = write(e->report, &r, sizeof r);
	while (n < 0 && errno == EINTR);
}

static void fail(const struct enter *e, int step)
{
	report(e, step, errno);
	_exit(127);
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

// keep_capabilities takes away for good what the container's init may not have.
static int keep_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	for (int i = 0; i < 64; i++) {
		int has = prctl(PR_CAPBSET_READ, i, 0, 0, 0);
		if (has < 0)
			break; // past the last one the kernel knows
		if (has && !(keep >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
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

// run is the program's process: already in the container's pid namespace.
static void run(const struct enter *e)
{
	struct sigaction dfl;
	int keep = 0;
	sigset_t none;

	if (setsid() < 0)
		fail(e, ENTER_TERMINAL);
	for (int i = 0; i < 3; i++)
		if (dup2(e->stdio[i], i) < 0)
			fail(e, ENTER_TERMINAL);
	if (e->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		fail(e, ENTER_TERMINAL);
	for (int i = 0; i < ENTER_RLIMITS; i++)
		setrlimit(i, &e->rlimits[i]); // what we may not raise stays as it is
	umask(022);
	// The C library's own functions would have every thread of the parent do it.
	if (syscall(SYS_setgroups, e->n_groups, e->groups) < 0 ||
	    syscall(SYS_setresgid, e->gid, e->gid, e->gid) < 0)
		fail(e, ENTER_USER);
	if (keep_capabilities(e->bounding) < 0)
		fail(e, ENTER_CAPABILITIES);
	if (syscall(SYS_setresuid, e->uid, e->uid, e->uid) < 0)
		fail(e, ENTER_USER);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); // a change of user may have set it
	if (chdir(e->dir) < 0 && (!e->dir_optional || chdir("/") < 0))
		fail(e, ENTER_DIRECTORY);
	if (e->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail(e, ENTER_CAPABILITIES);

	memset(&dfl, 0, sizeof dfl);
	dfl.sa_handler = SIG_DFL;
	for (int i = 1; i <= 64; i++)
		sigaction(i, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) < 0)
		for (int i = 3; i < 65536; i++)
			fcntl(i, F_SETFD, FD_CLOEXEC);

	// As a shell does it: the first that can be run; else the telling error.
	errno = ENOENT;
	for (char **p = e->paths; *p; p++) {
		execve(*p, e->argv, e->envp);
		if (errno != ENOENT && errno != ENOTDIR)
			keep = errno;
	}
	if (keep)
		errno = keep;
	else
		errno = ENOENT;
	fail(e, ENTER_PROGRAM);
}

static void enter(const struct enter *e)
{
	// From here on no process of the container may look into this one, which
	// still has the memory of its parent.
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	for (int i = 0; i < e->n_cgroups; i++)
		if (write(e->cgroups[i], "0", 1) < 0)
			fail(e, ENTER_CGROUP);
	if (e->label_file && write_text(e->label_file, e->label) < 0)
		fail(e, ENTER_LABEL);
	// All at once, and of the one process that the descriptor stands for.
	if (setns(e->pidfd, e->namespaces) < 0)
		fail(e, ENTER_NAMESPACES);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (e->namespaces & CLONE_NEWUSER)
		if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
			fail(e, ENTER_USER);

	// A pid namespace is for the children; the child's parent is ours.
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		run(e);
	if (pid < 0)
		fail(e, ENTER_FORK);
	report(e, ENTER_PID, pid);
	_exit(0);
}

pid_t enter_start(const struct enter *e)
{
	sigset_t all, old;
	pid_t pid;
	int err;

	// No signal may run the parent's handlers in the child.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0)
		enter(e);
	err = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -err : pid;
}
