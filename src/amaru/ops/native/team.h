// How the tasks of a kernel are shared among threads: by an OpenMP region of its own, or, while a program runs, by the program's team,
// whose helpers stay awake from kernel to kernel. Who takes which task changes no result.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

// One thread leads: it runs the program and calls `run`, while the others are in `help`.
class Team {
  public:
    template <class Body> void run(int64_t count, const Body &body) {
        tasks = count;
        task = [](const void *of, int64_t i) { (*static_cast<const Body *>(of))(i); };
        of = &body;
        next = 0;
        job++;
        work();
        next = CLOSED;  // a helper that wakes late finds nothing
        while (inside) rest(0);
    }

    void help() {
        for (int64_t seen = 0, current;; seen = current) {  // not the job there is by now: it may be the dismissal
            for (int64_t waited = 0; (current = job) == seen; waited++) rest(waited);
            if (current < 0) return;
            inside++;
            work();
            inside--;
        }
    }

    void dismiss() { job = INT64_MIN; }

  private:
    static constexpr int64_t CLOSED = INT64_MAX / 2, PATIENCE = 2000;

    void work() {
        for (int64_t i; (i = next++) < tasks;) task(of, i);
    }

    // Others may need this core when a wait has lasted for some 20 microseconds.
    static void rest(int64_t waited) {
        if (waited > PATIENCE) return std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    // What a helper may read while the leader prepares a job is atomic, and read after a task was claimed by what `next` says.
    alignas(64) std::atomic<int64_t> next{CLOSED};
    alignas(64) std::atomic<int64_t> job{0};
    alignas(64) std::atomic<int64_t> inside{0};
    std::atomic<int64_t> tasks{0};
    void (*task)(const void *, int64_t) = nullptr;
    const void *of = nullptr;
};

extern thread_local Team *team __attribute__((visibility("hidden")));  // of the program that this thread runs

// body(i) for 0 <= i < tasks, by up to `threads` threads.
template <class Body> void share(int64_t tasks, int threads, const Body &body) {
    if (threads == 1 || tasks == 1) {
        for (int64_t i = 0; i < tasks; i++) body(i);
    } else if (team) {
        team->run(tasks, body);
    } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < tasks; i++) body(i);
    }
}
