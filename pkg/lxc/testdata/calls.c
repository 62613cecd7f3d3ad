// Makes system calls and says how the kernel answers, each in a line: the interface, the
// call, and the errno. What the machine cannot run is left out.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long native(long nr)
{
	return syscall(nr, 0, 0, 0, 0, 0) < 0 ? errno : 0;
}

#ifdef __x86_64__
static long i386(long nr)
{
	long ret;
	asm volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(0L), "c"(0L), "d"(0L), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
	return (int)ret < 0 ? -(int)ret : 0;
}

static long x32(long nr)
{
	return native(nr | 0x40000000);
}
#endif

static void say(const char *interface, const char *name, long (*call)(long), long nr)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(call(nr));
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
		printf("%s %s %d\n", interface, name, WEXITSTATUS(status));
}

int main(void)
{
	say("native", "add_key", native, SYS_add_key);
	say("native", "io_uring_setup", native, SYS_io_uring_setup);
	say("native", "getpid", native, SYS_getpid);
#ifdef __x86_64__
	say("i386", "add_key", i386, 286);
	say("i386", "io_uring_setup", i386, 425);
	say("i386", "getpid", i386, 20);
	say("x32", "add_key", x32, 248);
#endif
	return 0;
}
